"""Two daemons, one gateway: each scenario has its lane on its own base model."""

from pathlib import Path

import httpx

from tests.processes import honed
from tests.tiny_models import make_tiny_base

SETTINGS = (
    'scenario = "{name}"\nbase_model = "{base}"\n[serve]\nport = 0\nctx_size = 512\nthreads = 1'
)


def test_a_second_scenario_is_served_by_the_gateway_of_the_first(
    tmp_path: Path, tiny_base: Path
) -> None:
    """`honed run` of the second hands over its base model; clients of the first notice nothing."""
    other_base = make_tiny_base(tmp_path / "base", seed=5)
    first = SETTINGS.format(name="first", base=tiny_base)
    second = SETTINGS.format(name="second", base=other_base)
    with honed(tmp_path / "1", first) as one, honed(tmp_path / "2", second) as two:
        one.start("serve")
        one.start("run")
        two.serve_socket = one.serve_socket
        two.start("run")
        one.until(
            lambda: (
                {lane["state"] for lane in one.serving()["scenarios"].values()} == {"active"}
                and len(one.serving()["scenarios"]) == 2
            ),
            "both are served",
        )
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        for name in ("first", "second", "gpt-4o"):
            answer = httpx.post(
                f"{one.serving()['address']}/v1/chat/completions",
                json=body | {"model": name},
                timeout=30,
            )
            assert answer.status_code == 200, (name, answer.text)
        one.until(lambda: two.status()["records"] == 1, "the second's call reached its own daemon")
        one.until(lambda: one.status()["records"] == 2, "the others reached the first")
