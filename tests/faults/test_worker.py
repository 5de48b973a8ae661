"""A worker that runs out of memory or room, or is cut off with its daemon: told clearly, nothing half left."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest

from honed.domain.job import Progress
from honed.errors import ProcessFailedError, TrainingError
from tests.flow.test_closed_loop import SETTINGS, _feed, _last_done, _step
from tests.incidents import attempt
from tests.processes import honed, is_alive
from tests.unit.processors.test_local import SETTINGS as SHORT
from tests.unit.processors.test_local import processor, request, train
from tests.unit.processors.test_worker_process import worker_pid

SMALL = 256
"""Bytes that a file may have once the disk is 'full'."""


def at_step(number: int, deed: Callable[[], None]) -> Callable[[Progress], None]:
    """Do it once, when the training has come so far."""

    is_done = False

    def on_progress(progress: Progress) -> None:
        nonlocal is_done
        if progress.step == number and not is_done:
            is_done = True
            deed()

    return on_progress


@pytest.mark.feature("TR-086")
def test_worker_without_memory_says_so(tiny_base: Path, tmp_path: Path) -> None:
    """No more address space: a failed run with the settings to change, or a named signal; no adapter."""
    folder = tmp_path / "runs" / "chat-tiny-1"

    def take_memory() -> None:
        pid = worker_pid(folder)
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))

    # before the first step, which asks for much; long enough that it has not been made when that is heard of
    order = request(tiny_base, tmp_path, settings=msgspec.structs.replace(SHORT, max_steps=60))
    with pytest.raises(TrainingError) as raised:
        train(processor(tmp_path), order, at_step(0, take_memory))
    told = f"{raised.value} ({raised.value.advice})"
    assert "memory" in told or isinstance(raised.value, ProcessFailedError), told
    assert not (tmp_path / "adapters").exists()


def test_worker_killed_for_memory_is_told_as_such(tiny_base: Path, tmp_path: Path) -> None:
    """The kernel ends with SIGKILL and explains nothing; the record says what that means."""
    folder = tmp_path / "runs" / "chat-tiny-1"
    kill = at_step(2, lambda: os.kill(worker_pid(folder), signal.SIGKILL))
    with pytest.raises(ProcessFailedError, match="ended by SIGKILL") as raised:
        train(processor(tmp_path), request(tiny_base, tmp_path), kill)
    assert "memory" in (raised.value.advice or "")


def test_full_disk_is_a_failed_run_with_advice(tiny_base: Path, tmp_path: Path) -> None:
    """The adapter cannot be written: nothing half is published, and the next run succeeds."""
    folder = tmp_path / "runs" / "chat-tiny-1"

    def fill() -> None:
        resource.prlimit(worker_pid(folder), resource.RLIMIT_FSIZE, (SMALL, SMALL))

    local = processor(tmp_path)
    with pytest.raises(TrainingError, match="the disk is full") as raised:
        train(local, request(tiny_base, tmp_path), at_step(2, fill))
    assert "data_dir" in (raised.value.advice or "")
    assert not (tmp_path / "adapters").exists()
    train(local, request(tiny_base, tmp_path))
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["ops@1"]


def test_what_a_cut_off_run_left_is_taken_back(tiny_base: Path, tmp_path: Path) -> None:
    """Unfinished files go; an adapter that was published and never registered is no adapter."""
    local = processor(tmp_path)
    train(local, request(tiny_base, tmp_path))
    folder, published = tmp_path / "runs" / "chat-tiny-1", tmp_path / "adapters" / "ops@1"
    (folder / "adapter").mkdir()

    def discard(registered: list[str]) -> None:
        async def run() -> None:
            await local.discard("chat-tiny-1", registered=registered)

        anyio.run(run)

    discard(["ops@1"])
    assert published.is_dir()
    assert not (folder / "adapter").exists()
    discard([])
    assert not published.exists()
    assert (folder / "unregistered" / "adapter.gguf").is_file()
    discard([])  # nothing is left to do, and that is no fault
    (folder / "job.json").write_text("{")
    discard([])


def test_hung_worker_ends_with_its_daemon(tmp_path: Path) -> None:
    """A worker that comes round to no handler does not outlive `kill -9` of its parent."""
    script = (
        "import os, signal, time; from honed.worker.reporting import end_on_sigterm;"
        "end_on_sigterm(); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]);"
        "print(os.getpid(), flush=True); time.sleep(300)"
    )
    parent = (
        "import os, subprocess, sys, time;"
        "env = os.environ | {'HONED_PARENT_PID': str(os.getpid())};"
        "subprocess.Popen([sys.executable, '-c', sys.argv[1]], env=env); time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, script], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        worker = int(daemon.stdout.readline())
        try:
            daemon.kill()
            deadline = time.monotonic() + 5
            while is_alive(worker):
                assert time.monotonic() < deadline, "the worker outlived its daemon"
                time.sleep(0.01)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def test_run_found_unfinished_is_interrupted_and_made_up_for(
    tmp_path: Path, incident_base: Path
) -> None:
    """kill -9 of the daemon in mid-training: the next one says so, and trains."""
    settings = (
        SETTINGS.format(base=incident_base, trigger="count(150)") + "[gate]\nenabled = false\n"
    )
    # so that there is no checkpoint to go on from
    settings = settings.replace("[train]\n", "[train]\nvalidation_fraction = 0\n")
    with honed(tmp_path / "loop", settings.replace('mode = "auto"', 'kind = "none"')) as loop:
        loop.start("run")
        _feed(loop, [attempt(i) for i in range(150)])
        loop.until(lambda: _step(loop) > 3, "it trains")
        first = loop.status()["training"]["run_id"]
        [worker] = loop.children("run")
        loop.kill("run")
        loop.start("run")
        run = loop.run(first)
        assert run is not None
        assert (run["state"], run["message"]) == (
            "interrupted",
            "the daemon ended in the middle of it",
        )
        assert not is_alive(worker)
        assert not (loop.data_dir / "runs" / first / "adapter").exists()
        again = loop.until(lambda: _last_done(loop), "it has trained again", limit_s=120)
        assert again["id"] != first
        assert [path.name for path in (loop.data_dir / "adapters").iterdir()] == ["incidents@2"]
        told = [line for line in loop.log_tail().splitlines() if "training.interrupted" in line]
        assert [json.loads(line)["run_id"] for line in told] == [first]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_run_whose_daemon_ends_goes_on_from_its_checkpoint(
    how: str, tmp_path: Path, incident_base: Path
) -> None:
    """kill -9 or a restart by systemd: the same run, under its own id, not from its beginning; one adapter."""
    settings = (
        SETTINGS.format(base=incident_base, trigger="count(150)") + "[gate]\nenabled = false\n"
    ).replace('mode = "auto"', 'kind = "none"')
    settings = settings.replace("[train]\n", "[train]\nsave_steps = 2\n")
    settings = settings.replace("num_train_epochs = 5", "num_train_epochs = 12")
    with honed(tmp_path / "loop", settings) as loop:
        loop.start("run")
        _feed(loop, [attempt(i) for i in range(150)])
        loop.until(lambda: _step(loop) > 6, "it trains")
        first = loop.status()["training"]["run_id"]
        [worker] = loop.children("run")
        getattr(loop, how)("run")
        loop.until(lambda: not is_alive(worker), "its worker has ended with it")
        loop.start("run")
        done = loop.until(lambda: _last_done(loop), "it has gone on", limit_s=120)
        assert done["id"] == first
        progress = (loop.data_dir / "runs" / first / "progress.jsonl").read_text()
        notes = [line["note"] for line in map(json.loads, progress.splitlines()) if "note" in line]
        *damaged, told = notes  # a checkpoint that was being written is told of, too
        assert all("was never finished" in note for note in damaged)
        assert told.startswith("goes on after step ")
        assert len(list((loop.data_dir / "adapters").iterdir())) == 1
        assert not (loop.data_dir / "runs" / first / "checkpoints").exists()
