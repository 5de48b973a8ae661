"""The service goes on while the daemon restarts, and while the disk is full."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from honed.errors import TrainingError
from honed.processors.worker_process import run_job
from tests.faults.chaos import Callers
from tests.processes import Honed, honed
from tests.unit.processors.test_worker_process import pretraining

SETTINGS = """
scenario = "incidents"
trigger = "manual()"

[serve]
port = 0
base_model_path = "{gguf}"
ctx_size = 512
parallel = 4
threads = 1
hold_timeout = "5s"
"""
SMALL = 16
"""Bytes that a file may have while the disk is full."""


@pytest.fixture
def service(tmp_path: Path, tiny_gguf: Path) -> Iterator[Honed]:
    """A gateway that serves."""
    with honed(tmp_path / "loop", SETTINGS.format(gguf=tiny_gguf)) as found:
        found.start("serve")
        found.until(lambda: lane(found)["is_serving"], "the base is served")
        yield found


def lane(service: Honed) -> dict[str, Any]:
    found: dict[str, Any] = service.serving()["scenarios"]["incidents"]
    return found


def llama_server(service: Honed) -> int:
    """The pid that the gateway has written down."""
    [path] = (service.data_dir / "llama").glob("*.pid")
    return int(path.read_text())


def ask(service: Honed) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return httpx.post(f"{service.serving()['address']}/v1/chat/completions", json=body, timeout=30)


def test_restarting_the_daemon_interrupts_no_request(service: Honed) -> None:
    """Stopped, killed and started again under load, as an upgrade does: every request is answered."""
    callers = Callers(service.serving()["address"])
    with callers.calling(4):
        for end in ("stop", "kill", "stop", "kill"):
            service.start("run")
            service.until(lambda: lane(service)["captured"]["sent"] > 0, "calls are captured")
            goal = callers.answers + 20
            getattr(service, end)("run")
            while callers.answers < goal:
                time.sleep(0.01)
    assert callers.failures == []
    assert (lane(service)["failed"], lane(service)["refused"]) == (0, 0)


def test_only_requests_in_flight_fail_when_a_server_is_killed(service: Honed) -> None:
    """What comes while the next one starts waits for it."""
    callers = Callers(service.serving()["address"])
    killed: list[tuple[float, float]] = []
    with callers.calling(4):
        for _ in range(3):
            goal, at_s = callers.answers + 20, time.monotonic()
            os.kill(llama_server(service), signal.SIGKILL)
            while callers.answers < goal:
                assert time.monotonic() < at_s + 60, "it is not served again"
                time.sleep(0.01)
            killed.append((at_s, time.monotonic()))
    assert lane(service)["refused"] == 0
    assert len(callers.failures) <= 4 * len(killed)
    assert all(
        any(failure.began_s <= at_s + 0.5 and failure.ended_s >= at_s for at_s, _ in killed)
        for failure in callers.failures
    )


def test_full_disk_does_not_end_the_gateway(service: Honed) -> None:
    """A server that dies then cannot be started: the lane says why, and is back when there is room."""
    gateway = service.running["serve"].pid
    before = resource.prlimit(gateway, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway, resource.RLIMIT_FSIZE, (SMALL, before[1]))
    os.kill(llama_server(service), signal.SIGKILL)
    service.until(
        lambda: "could not be started: [Errno 27] File too large" in (lane(service)["error"] or ""),
        "the lane says why",
    )
    service.until(lambda: ask(service).status_code == 503, "clients are told")
    assert service.running["serve"].poll() is None
    resource.prlimit(gateway, resource.RLIMIT_FSIZE, before)
    service.until(lambda: lane(service)["is_serving"], "it is served again")
    assert ask(service).status_code == 200


def test_full_disk_under_the_runs_is_a_failed_run(tmp_path: Path) -> None:
    """Not even the job can be written: the error names the folder and what to do."""
    (tmp_path / "runs").touch()  # where a folder cannot be made, a file cannot be written either

    async def run() -> None:
        await run_job(pretraining(tmp_path / "data", steps=1), tmp_path / "runs" / "run-1")

    with pytest.raises(TrainingError, match="cannot be written into") as raised:
        anyio.run(run)
    assert "data_dir" in (raised.value.advice or "")
