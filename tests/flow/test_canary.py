"""A canary with the real daemon, gateway and llama-servers: tried, rolled back by its outcomes, overruled by hand."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from honed.stores import open_store
from tests.processes import Honed, honed
from tests.served import CHAT, QUESTION, model

SETTINGS = """\
scenario = "tiny"
[events]
settle = "0s"
[apply.canary]
interval = "0.2s"
[serve]
port = 0
base_model_path = "{base}"
ctx_size = 256
threads = 1
"""


async def _register(path: Path, adapters: tuple[Path, Path]) -> None:
    """Two adapters, the first of them in service."""
    async with open_store(f"sqlite:///{path}") as store:
        for folder in adapters:
            await store.add_model(model(folder))
        assert await store.push_applied("tiny", "tiny@1", expected=None, max_history=5, now_ms=1)


def _typed(process: Honed, *arguments: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "honed", *arguments, "--config", str(process.config)],
        env=os.environ | {"HONED__SERVE__SOCKET": str(process.serve_socket), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _answered(process: Honed, name: str, num: int = 60) -> dict[str, str]:
    """The version that answers each of so many tasks."""
    found = {}
    with httpx.Client(base_url=process.serving()["address"], timeout=60) as client:
        for task in (f"{name}-{number}" for number in range(num)):
            headers = {"x-honed-task": task}
            answer = client.post(CHAT, json=QUESTION | {"max_tokens": 2}, headers=headers)
            assert answer.status_code == 200, answer.text
            found[task] = answer.headers["x-honed-model"]
    return found


def _canaries(process: Honed) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = process.ask("GET", "/v1/canary")["canaries"]
    return found


def _lane(process: Honed) -> dict[str, Any]:
    lane: dict[str, Any] = process.serving()["scenarios"]["tiny"]
    return lane


@pytest.mark.timeout(240)
def test_a_canary_is_rolled_back_by_its_outcomes_and_promoted_by_hand(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Half of the tasks are answered by it, a killed daemon goes on with it, and what it failed at ends it."""
    with honed(tmp_path, SETTINGS.format(base=tiny_gguf)) as daemon:
        daemon.data_dir.mkdir(parents=True)
        anyio.run(_register, daemon.data_dir / "honed.db", tiny_adapters)
        daemon.start("serve")
        daemon.start("run")
        daemon.until(lambda: _lane(daemon)["model_id"] == "tiny@1", "the first adapter serves")

        told = _typed(daemon, "canary", "tiny@2", "--share", "0.5", "--force", "--by", "ann")
        assert told == "tiny@2 gets 50% of the tasks\n"
        answered = _answered(daemon, "a")
        assert min(list(answered.values()).count(each) for each in ("tiny@1", "tiny@2")) >= 20
        daemon.until(lambda: daemon.status()["records"] == len(answered), "all calls are captured")
        assert "canary      tiny@2 is tried: 50% of the tasks, beside tiny@1" in _typed(
            daemon, "status"
        )

        daemon.kill("run")
        daemon.start("run")
        outcomes = {"tiny@1": {"type": "success"}, "tiny@2": {"type": "failure", "reason": "no"}}
        said = [
            {"task_id": task, "outcome": outcomes[version]} for task, version in answered.items()
        ]
        daemon.ask("POST", "/v1/feedback", {"outcomes": said})
        daemon.until(lambda: _canaries(daemon)[0]["state"] == "rolled_back", "it is rolled back")
        [over] = _canaries(daemon)
        assert over["reason"].startswith("fewer tasks done: 0.0% of ")
        assert (_lane(daemon)["model_id"], _lane(daemon)["candidate"]) == ("tiny@1", None)
        assert set(_answered(daemon, "b", 10).values()) == {"tiny@1"}

        by_hand = {"said_by": "ann"}
        daemon.ask("POST", "/v1/canary", by_hand | {"model_id": "tiny@2", "force": True})
        daemon.ask("POST", "/v1/canary/promote", by_hand)
        assert set(_answered(daemon, "c", 10).values()) == {"tiny@2"}
        assert daemon.status()["current_model"] == "tiny@2"
        assert "tiny@2 was promoted by ann: promoted by hand\n" in _typed(daemon, "canary")
        assert daemon.ask("POST", "/v1/rollback", {})["model_id"] == "tiny@1"
        assert _lane(daemon)["model_id"] == "tiny@1"
        assert daemon.stop("run") == 0
