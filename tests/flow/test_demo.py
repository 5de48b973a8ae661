"""`honed demo` on the real daemon, worker, gateway and llama-server: it passes, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from honed.demo import recipe, stage
from honed.demo.control import ControlSocket
from honed.demo.environment import World
from honed.demo.run import run_demo
from honed.demo.swarm import Manner
from honed.errors import ConfigError, ControlError
from tests.processes import is_alive

pytestmark = pytest.mark.anyio


def _until(holds: Callable[[], bool], what: str, *, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s in vain until {what}"
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


async def test_the_stage_serves_and_is_empty_afterwards(tmp_path: Path, tiny_base: Path) -> None:
    """Both processes answer, the idle daemon is small, agents get answers, and no process stays."""
    world = World(1)
    config_path = recipe.write_config(tmp_path, base_model=tiny_base, seed=1)
    async with stage.opened(config_path, world) as on:
        assert 0 < on.idle_mb < 80
        attempts = await on.swarm.work(Manner("test", "work", 1.0), 4, tell=on.tell)
        assert (len(attempts), on.swarm.errors) == (4, [])
        assert {call.model for call in on.swarm.calls} == {"base"}
        await on.control.when(
            "/v1/status", lambda status: status["episodes"] == 4, limit_s=30, check=on.check
        )
        pids = [on.daemon.pid, on.gateway.pid]
        pids += [child for pid in pids for child in _descendants(pid)]
        assert len(pids) >= 3
        sockets = on.feed_path.parent
    assert not any(is_alive(pid) for pid in pids)
    assert not sockets.exists()


async def test_evaluation_makes_no_episode(tmp_path: Path, tiny_base: Path) -> None:
    """Measuring and load must not bring the trigger nearer."""
    config_path = recipe.write_config(tmp_path, base_model=tiny_base, seed=1)
    async with stage.opened(config_path, World(1)) as on:
        await on.swarm.work(recipe.measuring("before", 0.7), 4)
        calls = len(on.swarm.calls)
        await on.control.when(
            "/v1/status", lambda status: status["records"] == calls, limit_s=30, check=on.check
        )
        await on.swarm.work(Manner("test", "work", 1.0), 1, tell=on.tell)
        status = await on.control.when(
            "/v1/status", lambda status: status["episodes"] > 0, limit_s=30, check=on.check
        )
        assert status["episodes"] == 1


async def test_a_daemon_that_ends_is_reported_with_its_log(tmp_path: Path, tiny_base: Path) -> None:
    """Who sees the error sees the reason: the end of the process's own log."""
    config_path = recipe.write_config(tmp_path, base_model=tiny_base, seed=1)
    config_path.write_text(config_path.read_text().replace("lora_alpha", "lora_alhpa"))
    with pytest.raises(ControlError, match="ended with status 78") as caught:
        async with stage.opened(config_path, World(1)):
            pass
    assert "did you mean lora_alpha?" in (caught.value.advice or "")


async def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written into it."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        await run_demo(tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


async def test_what_never_comes_true_has_a_limit(tmp_path: Path) -> None:
    """A socket that nobody listens on is asked for a while, then said so."""
    nobody = ControlSocket(tmp_path / "control.sock")
    with pytest.raises(ControlError, match="did not come true"):
        await nobody.when("/v1/status", lambda status: True, limit_s=0.2, check=lambda: None)
    with pytest.raises(ControlError, match=r"control\.sock"):
        await nobody.get("/v1/status")


_CRASHING = """
import signal, sys, time, anyio
from pathlib import Path
from honed.demo import stage
from honed.demo.environment import World

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it

async def main():
    async with stage.opened(Path(sys.argv[1]), World(1)) as on:
        print(on.daemon.pid, on.gateway.pid, flush=True)
        await anyio.sleep(120)

anyio.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_demo_that_is_ended_takes_its_processes_along(
    tmp_path: Path, tiny_base: Path, number: signal.Signals
) -> None:
    """Whether it can still tidy up or not."""
    config_path = recipe.write_config(tmp_path, base_model=tiny_base, seed=1)
    with subprocess.Popen(
        [sys.executable, "-c", _CRASHING, str(config_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        pids = [int(pid) for pid in demo.stdout.readline().split()]
        assert len(pids) == 2
        pids += [child for pid in pids for child in _descendants(pid)]
        os.kill(demo.pid, number)
        demo.wait(60)
        _until(lambda: not any(is_alive(pid) for pid in pids), "all its processes have ended")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_passes(tmp_path: Path) -> None:
    """The loop closes: the gain is clear, nothing failed, the control is refused, the report is there."""
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "honed", "demo", "--folder", str(folder), "--seed", "4", "--json"],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    before, after = result["before"]["sampled"], result["after"]["sampled"]
    assert after["value"] >= 3 * before["value"]
    assert after["low"] > before["high"]
    assert (result["requests_failed"], result["gateway"]["failed"]) == (0, 0)
    adapter, control = result["verdicts"]
    assert (adapter["decision"], control["selection"]) == ("pass", "blind")
    assert control["decision"] != "pass"
    assert result["served_at_end"] == adapter["model_id"]
    assert result["daemon_idle_mb"] < 80
    assert Path(result["report_path"]).read_text().startswith("<!DOCTYPE html>")
