"""The real daemon and gateway when the GGUF that is named is another model than is trained on."""

from pathlib import Path

import httpx
import pytest

from honed.client import HonedClient
from tests.incidents import attempt, events
from tests.processes import honed
from tests.tiny_models import make_tiny_base, make_tiny_gguf

pytestmark = pytest.mark.timeout(180)

SETTINGS = """
scenario = "tiny"
base_model = "{base}"
trigger = "count(1)"
check_interval = "1s"

[serve]
port = 0
base_model_path = "{gguf}"
ctx_size = 256
parallel = 2
threads = 1
"""


def test_another_checkpoint_is_neither_served_nor_trained_for(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Gateway and daemon stay up and say what differs; events are taken; nothing is trained."""
    other = make_tiny_base(tmp_path / "other", seed=5)
    gguf = make_tiny_gguf(other, tmp_path / "other.gguf")
    settings = SETTINGS.format(base=tiny_base, gguf=gguf)
    with honed(tmp_path / "scenario", settings) as found:
        found.start("serve")
        found.start("run")
        problem = found.until(
            lambda: found.status()["base_problem"], "the daemon knows", limit_s=90
        )
        assert f"{gguf} is not the model in {tiny_base}: token_embd.weight[" in problem
        assert ": expected " in problem

        lane = found.until(
            lambda: next(
                (each for each in found.serving()["scenarios"].values() if each["base_problem"]),
                None,
            ),
            "the gateway knows",
        )
        assert (lane["state"], lane["is_serving"]) == ("down", False)
        assert lane["base_problem"] == problem
        address = found.serving()["address"]
        answer = httpx.post(f"{address}/v1/chat/completions", json={"messages": []})
        assert (answer.status_code, "is not the model in" in answer.text) == (503, True)

        with HonedClient(found.data_dir / "feed.sock") as client:
            client.send(*events(0, *attempt(0)))
        found.until(lambda: found.status()["records"], "events are stored")
        with pytest.raises(httpx.HTTPStatusError) as refused:
            found.ask("POST", "/v1/train-now", {})
        assert refused.value.response.status_code == 409
        assert "nothing is trained" in refused.value.response.json()["message"]
        assert found.ask("GET", "/v1/runs")["runs"] == []
