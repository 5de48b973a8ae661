"""Two daemons, one gateway: each scenario has its lane on its own base model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.processes import Honed, honed
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


def test_daemons_of_one_base_model_share_a_server(tmp_path: Path, tiny_base: Path) -> None:
    """Each has converted the model for itself; the gateway sees that it is the same one."""
    settings = SETTINGS.format(name="first", base=tiny_base) + "\nmax_adapters = 4"
    second = SETTINGS.format(name="second", base=tiny_base)
    with honed(tmp_path / "1", settings) as one, honed(tmp_path / "2", second) as two:
        one.start("serve")
        two.serve_socket = one.serve_socket
        two.start("run")
        one.until(
            lambda: (
                [lane["state"] for lane in one.serving()["scenarios"].values()] == ["active"] * 2
            ),
            "both are served",
        )
        lanes = one.serving()["scenarios"]
        assert lanes["first"]["address"] == lanes["second"]["address"]
        bases = [list(each.data_dir.glob("llama/*.gguf")) for each in (one, two)]
        assert [len(found) for found in bases] == [1, 1]


def _asked(process: Honed, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this scenario's config and socket."""
    return subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(process.config)],
        env=os.environ | {"HONED__SERVE__SOCKET": str(process.serve_socket), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=90,
    )


def _gateway_line(process: Honed) -> dict[str, str]:
    """What the doctor says of the gateway."""
    findings: list[dict[str, str]] = json.loads(_asked(process, "doctor", "--json").stdout)
    return next(finding for finding in findings if finding["check"] == "gateway")


def test_a_gateway_of_another_config_is_told_from_ones_own(tmp_path: Path) -> None:
    """On its address, on its socket, and one's own that was started with another socket; each with what to do."""
    with (
        honed(tmp_path / "1", 'scenario = "first"\n[serve]\nport = 0') as one,
        honed(tmp_path / "2", "") as two,
    ):
        one.start("serve")
        assert _asked(one, "health", "gateway").returncode == 0
        address = one.serving()["address"]
        port = int(address.rpartition(":")[2])
        settings = f'data_dir = "{two.data_dir}"\nscenario = "second"\n[serve]\nport = {port}'
        two.config.write_text(settings)

        told = _asked(two, "health", "gateway")
        assert told.returncode == 3
        assert f"another honed gateway listens on 127.0.0.1:{port}" in told.stderr
        assert _gateway_line(two)["status"] == "fail"
        assert "choose another serve.port" in _gateway_line(two)["advice"]

        two.serve_socket = one.serve_socket
        told = _asked(two, "health", "gateway")
        assert told.returncode == 1
        assert f"it works in {one.data_dir}/llama, on {address}" in told.stderr
        assert "does not know second" in told.stderr
        found = _gateway_line(two)
        assert found["status"] == "warn"
        assert "`honed run` adds second to it" in found["advice"]
        one.ask("PUT", "/v1/scenarios/second", {}, socket=one.serve_socket)
        assert _asked(two, "health", "gateway").returncode == 0
        assert "shared: it works in" in _gateway_line(two)["found"]

        one.config.write_text(one.config.read_text().replace("port = 0", f"port = {port}"))
        one.serve_socket = tmp_path / "elsewhere.sock"
        told = _asked(one, "health", "gateway")
        assert told.returncode == 3
        assert "the gateway of this data_dir listens on" in told.stderr
        assert "XDG_RUNTIME_DIR" in _gateway_line(one)["advice"]
