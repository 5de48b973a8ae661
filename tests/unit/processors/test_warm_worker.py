"""A worker that stays loaded: what its jobs give, when it goes, and what is left of one that is ended.

Where the job does not matter, the real process that waits forks a job of these tests, so that nothing large is loaded.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest

from honed.domain.job import Progress, TrainJob, TrainResult, TrainSettings
from honed.errors import EmptyDataError, ProcessFailedError
from honed.processors.warm_worker import WarmWorker
from tests.tiny_models import conversations
from tests.unit.processors.test_worker_process import group_is_gone

MINUTE = timedelta(minutes=1)

STAND_IN = """
import os, sys, time
from pathlib import Path
import msgspec
from honed.domain.job import JobFailed, Progress, TrainResult, parse_job
from honed.domain.trained_model import TrainingMetrics
from honed.errors import HonedError
from honed.worker.reporting import report_into, write_result
from honed.worker.warm import serve

def load_nothing(job):
    raise HonedError("nothing to load")

def do(path, pipe):
    job = parse_job(path.read_bytes())
    sys.stderr.write(f"job {os.getpid()} of {os.getppid()}\\n")
    report_into(pipe)(Progress(phase="training", step=1))
    match job.run_id:
        case "endless":
            if os.fork() == 0:
                time.sleep(600)
            time.sleep(600)
        case "leaves a process":
            if os.fork() == 0:
                time.sleep(600)
        case "fails":
            result = JobFailed(kind="EmptyDataError", message="no rows", advice="collect some")
            write_result(Path(job.result_path), result)
            return 1
        case "raises":
            raise RuntimeError("unforeseen")
    metrics = TrainingMetrics()
    write_result(Path(job.result_path), TrainResult(digest=str(os.getpid()), metrics=metrics))
    return 0

sys.exit(serve(float(sys.argv[-1]), do, load_nothing))
"""


def job_in(folder: Path, *, does: str = "ends", base: Path = Path("/none")) -> TrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    return TrainJob(
        run_id=does,
        model_id="ops@1",
        scenario="ops",
        learn_model="chat",
        base_model=str(base),
        data_path=str(folder / "data.jsonl"),
        held_out_path=None,
        incumbent_path=None,
        output_path=str(folder / "adapter"),
        result_path=str(folder / "result.json"),
        settings=TrainSettings(
            r=4, max_steps=3, threads=1, logging_steps=1, device="cpu", learning_rate=5e-3
        ),
    )


def training(base: Path, folder: Path, *, rows: int = 24) -> TrainJob:
    job = job_in(folder, base=base)
    lines = (json.dumps(row) + "\n" for row in conversations(rows))
    Path(job.data_path).write_text("".join(lines))
    return job


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """An interpreter's stand-in that forks jobs of these tests."""
    script, program = tmp_path / "stand_in.py", tmp_path / "python"
    script.write_text(STAND_IN)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    program.chmod(0o700)
    return str(program)


def pid_of(worker: WarmWorker) -> int:
    """The process that waits for orders."""
    assert worker._warm is not None
    return worker._warm.process.pid


async def ended(pid: int) -> None:
    """Until the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            with anyio.fail_after(60):
                await anyio.wait_readable(fd)
        finally:
            os.close(fd)


async def done(worker: WarmWorker, job: TrainJob) -> TrainResult:
    result = await worker.run(job, Path(job.result_path).parent, ignore)
    assert isinstance(result, TrainResult)
    return result


def ignore(progress: Progress) -> None:
    """Nothing to look at."""


def at_step(act: Callable[[], object]) -> Callable[[Progress], None]:
    """Act once the first step has been told."""

    def look(progress: Progress) -> None:
        if progress.step == 1:
            act()

    return look


def test_cold_and_warm_give_the_same_bits(tiny_base: Path, tmp_path: Path) -> None:
    """The adapter of a run is that of a new process, the first time and after other runs."""

    async def run() -> None:
        found: dict[str, bytes] = {}
        worker = WarmWorker(MINUTE)
        try:
            for name, rows, how in (
                ("cold", 24, WarmWorker(timedelta(0))),
                ("first", 24, worker),
                ("other", 30, worker),
                ("again", 24, worker),
            ):
                job = training(tiny_base, tmp_path / name, rows=rows)
                await done(how, job)
                weights = Path(job.output_path) / "adapter_model.safetensors"
                found[name] = weights.read_bytes()
        finally:
            await worker.give_back()
        assert found["first"] == found["again"] == found["cold"] != found["other"]

    anyio.run(run)


def test_one_process_waits_and_a_fork_of_it_does_each_job(stand_in: str, tmp_path: Path) -> None:
    """Two jobs, two processes, one parent; each job's stderr is in its own log."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        pids = []
        for name in ("a", "b"):
            result = await done(worker, job_in(tmp_path / name))
            told = (tmp_path / name / "worker.log").read_text()
            assert told == f"job {result.digest} of {pid_of(worker)}\n"
            pids.append(result.digest)
        assert len(set(pids)) == 2
        await worker.give_back()

    anyio.run(run)


def test_it_goes_when_no_job_comes(stand_in: str, tmp_path: Path) -> None:
    """After the time without a job the process has ended by itself; the next job gets a new one."""

    async def run() -> None:
        worker = WarmWorker(timedelta(seconds=0.2), python=stand_in)
        await done(worker, job_in(tmp_path / "a"))
        pid = pid_of(worker)
        await ended(pid)
        await done(worker, job_in(tmp_path / "b"))
        assert pid_of(worker) != pid
        await worker.give_back()

    anyio.run(run)


def test_its_memory_is_given_back_on_demand(stand_in: str, tmp_path: Path) -> None:
    """After `give_back` no process of it is there, and the next job works all the same."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        await worker.give_back()
        await done(worker, job_in(tmp_path / "a"))
        pid = pid_of(worker)
        await worker.give_back()
        assert group_is_gone(pid)
        await done(worker, job_in(tmp_path / "b"))
        await worker.give_back()

    anyio.run(run)


@pytest.mark.parametrize(
    ("does", "error"),
    [
        pytest.param("fails", EmptyDataError, id="says-why"),
        pytest.param("raises", ProcessFailedError, id="raises"),
    ],
)
def test_a_job_that_fails_ends_nothing_else(
    stand_in: str, tmp_path: Path, does: str, error: type[Exception]
) -> None:
    """The error is that of a new process, and the process serves on."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        with pytest.raises(error, match=r"no rows|unforeseen"):
            await done(worker, job_in(tmp_path / "a", does=does))
        pid = pid_of(worker)
        await done(worker, job_in(tmp_path / "b"))
        assert pid_of(worker) == pid
        await worker.give_back()

    anyio.run(run)


def test_what_a_job_leaves_running_is_ended(stand_in: str, tmp_path: Path) -> None:
    """Once a job is done, the process that waits has no child."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        await done(worker, job_in(tmp_path / "a", does="leaves a process"))
        pid = pid_of(worker)
        assert not Path(f"/proc/{pid}/task/{pid}/children").read_text()
        await worker.give_back()

    anyio.run(run)


def test_a_cancelled_job_ends_with_all_its_processes(stand_in: str, tmp_path: Path) -> None:
    """Nothing of the job, of its children or of the process that waits runs on."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        pids: list[int] = []
        async with anyio.create_task_group() as tasks:

            def stop() -> None:
                pids.append(pid_of(worker))
                tasks.cancel_scope.cancel()

            job = job_in(tmp_path / "a", does="endless")
            tasks.start_soon(worker.run, job, tmp_path / "a", at_step(stop))
        assert group_is_gone(pids[0])
        await done(worker, job_in(tmp_path / "b"))
        await worker.give_back()

    anyio.run(run)


def test_a_silent_job_is_ended(stand_in: str, tmp_path: Path) -> None:
    """No line for the limit ends the job and the process that waits, and the error says so."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in, silence_limit=timedelta(seconds=5))
        with pytest.raises(ProcessFailedError, match="silent for 0:00:05"):
            await done(worker, job_in(tmp_path / "a", does="endless"))
        assert worker._warm is None

    anyio.run(run)


@pytest.mark.parametrize("victim", ["job", "process"])
def test_a_killed_worker_is_a_failed_job(stand_in: str, tmp_path: Path, victim: str) -> None:
    """kill -9 of the job, or of the process that waits, which takes the job along; the next job works."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        jobs: list[int] = []

        def kill() -> None:
            pid = pid_of(worker)
            jobs.append(int(Path(f"/proc/{pid}/task/{pid}/children").read_text()))
            os.kill(jobs[0] if victim == "job" else pid, signal.SIGKILL)

        folder = tmp_path / "a"
        with pytest.raises(ProcessFailedError, match="SIGKILL"):
            await worker.run(job_in(folder, does="endless"), folder, at_step(kill))
        await ended(jobs[0])
        await done(worker, job_in(tmp_path / "b"))
        await worker.give_back()

    anyio.run(run)


def test_another_base_model_takes_another_process(stand_in: str, tmp_path: Path) -> None:
    """One base model is in memory at a time, and the environment that it was imported in is its own."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        await done(worker, job_in(tmp_path / "a", base=Path("/one")))
        pid = pid_of(worker)
        await done(worker, job_in(tmp_path / "b", base=Path("/other")))
        assert pid_of(worker) != pid
        assert group_is_gone(pid)
        await worker.give_back()

    anyio.run(run)


def test_jobs_take_turns(stand_in: str, tmp_path: Path) -> None:
    """Two jobs at the same time are done one after the other by one process."""

    async def run() -> None:
        worker = WarmWorker(MINUTE, python=stand_in)
        seen: list[str] = []

        def see(name: str, progress: Progress) -> None:
            seen.append(name)

        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                folder = tmp_path / name
                tasks.start_soon(worker.run, job_in(folder), folder, partial(see, name))
        await worker.give_back()
        assert sorted(seen) in (seen, seen[::-1])

    anyio.run(run)
