"""A daemon's whole life as a process: under load, stopped, forced, killed and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from honed.client import HonedClient
from honed.listen import is_listening
from tests.processes import ROOT, Honed, honed
from tests.unit.test_in_process import config_in, running

SETTINGS = """
scenario = "airline"
base_model = "BASE"
trigger = "RULE"
check_interval = 0.05
[apply]
kind = "none"
[events]
settle = "0s"
[train]
min_rows = 1
max_steps = 1
max_episodes = 40
max_length = 64
[gate]
enabled = false
held_out_fraction = 0.0001
"""


def settings(base: Path, rule: str) -> str:
    return SETTINGS.replace("BASE", str(base)).replace("RULE", rule)


def attempt(client: HonedClient, number: int) -> None:
    question = [{"role": "user", "content": f"what is {number}?"}]
    client.llm_call(question, {"role": "assistant", "content": "it"}, task_id=f"t{number}")
    client.outcome(task_id=f"t{number}", success=True)


@pytest.mark.feature("SE-127")
@pytest.mark.parametrize(
    "seconds", [2, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(400)])]
)
def test_under_load_it_trains_applies_and_stops_clean(
    tmp_path: Path, tiny_base: Path, seconds: int
) -> None:
    """Every event that was acknowledged is stored while real trainings run beside; the end is orderly."""
    with honed(tmp_path, settings(tiny_base, "count(20)")) as daemon:
        daemon.start("run")
        sent, end_s = 0, time.monotonic() + seconds
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            while time.monotonic() < end_s or sent < 25:
                attempt(client, sent)
                sent += 1
        models = daemon.until(lambda: daemon.ask("GET", "/v1/models")["models"], "it has trained")
        order = {"model_id": models[0]["id"], "force": True}  # nothing has judged it
        assert daemon.ask("POST", "/v1/apply", order)["model_id"] == models[0]["id"]
        status = daemon.until(
            lambda: found if (found := daemon.status())["episodes"] == sent else None, "all are in"
        )
        assert (status["records"], status["duplicates"], status["rejected"]) == (2 * sent, 0, 0)
        assert status["current_model"] is not None
        assert daemon.stop("run") == 0
        assert not (daemon.data_dir / "control.sock").exists()


@pytest.mark.feature("SE-130")
def test_a_second_signal_forces_the_end(tmp_path: Path, tiny_base: Path) -> None:
    """The first one waits for a worker that does not end; the second one ends both at once, by 128 + signal."""
    with honed(tmp_path, settings(tiny_base, "manual()")) as daemon:
        child = daemon.start("run")
        with HonedClient(daemon.data_dir / "feed.sock") as client:
            attempt(client, 1)
        daemon.until(lambda: daemon.status()["episodes"], "the attempt is an episode")
        daemon.ask("POST", "/v1/train-now", {})
        [worker] = daemon.until(lambda: daemon.children("run"), "a worker runs")
        daemon.until(lambda: _phase(daemon) not in ("reading", None), "it has begun")
        os.kill(worker, signal.SIGSTOP)
        child.send_signal(signal.SIGTERM)
        feed = daemon.data_dir / "feed.sock"
        daemon.until(lambda: not is_listening(feed), "the first signal closes the sources")
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 128 + signal.SIGTERM
        daemon.running.pop("run")
        daemon.until(lambda: not _is_alive(worker), "its worker ends with it")


def _phase(daemon: Honed) -> str | None:
    """What the run in progress does, by its own words."""
    now = daemon.status()["training"]
    return now["phase"] if now else None


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"


KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
from honed.errors import TrainingError
from tests.unit.test_in_process import attempt, config_in, running

async def main(folder):
    config = config_in(folder, database=f"sqlite:///{folder}/honed.db")
    async with running(config) as inside:
        daemon = inside.daemon
        for number in range(3):
            await daemon.send(attempt(number))
        await inside.episodes(3)
        await daemon.process_now()
        await daemon.apply_model("airline@1")
        inside.training.fault = TrainingError("out of memory")
        await daemon.process_now()
        print((await daemon.stats()).last_train_at.timestamp(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.feature("SE-137")
def test_times_counts_and_history_survive_kill_9(tmp_path: Path) -> None:
    """The next daemon goes on with what the killed one knew: when it trained and on how much, the back-off, the
    adapters in service.
    """
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr

    async def after() -> None:
        config = config_in(tmp_path, database=f"sqlite:///{tmp_path}/honed.db")
        async with running(config) as inside:
            status = await inside.daemon.status()
            assert status["last_train_at_ms"] / 1000 == float(done.stdout.splitlines()[-1])
            assert (status["records"], status["episodes"]) == (6, 3)
            assert status["current_model"] == "airline@1"
            assert [entry["model_id"] for entry in status["history"]] == ["airline@1"]
            assert status["backoff_until_ms"] > status["last_train_at_ms"]
            assert status["last_run"]["state"] == "failed"
            stats = await inside.daemon.stats()
            assert (stats.records_received, stats.trainings_completed) == (0, 0)  # its own
            assert stats.last_train_at is not None
            state = await inside.daemon._opened[1].state()
            assert state.last_train_count == 3

    anyio.run(after)


@pytest.mark.feature("SE-138")
def test_a_second_daemon_on_a_folder_is_refused(tmp_path: Path) -> None:
    """It ends with 78, so that nothing starts it again and again; the first one goes on."""
    with honed(tmp_path, 'scenario = "airline"\n[apply]\nkind = "none"') as daemon:
        daemon.start("run")
        second = subprocess.run(
            [sys.executable, "-m", "honed", "run", "--config", str(daemon.config)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (second.returncode, "another daemon runs" in second.stderr) == (78, True)
        assert daemon.status()["scenario"] == "airline"
        assert daemon.stop("run") == 0
