"""Real worker processes: what they give, and what is left when they are killed."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.job import ExportBaseJob, PretrainJob, PretrainResult, Progress, ScoreJob
from honed.errors import ProcessFailedError, TrainingError
from honed.processors import run_job
from tests.tiny_models import conversations

LONG = 100_000
"""Steps of a run that must be ended."""


def pretraining(folder: Path, *, steps: int) -> PretrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in conversations(16)))
    return PretrainJob(
        data_path=str(data),
        output_path=str(folder / "base"),
        result_path=str(folder / "result.json"),
        steps=steps,
        batch_size=4,
        hidden_size=64,
        vocab_size=300,
    )


def group_is_gone(pid: int) -> bool:
    """Whether no process of the worker's group runs on; one that was just killed may take a while.

    One that only waits to be reaped does not run.
    """
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group, *_ = path.read_text().rpartition(")")[2].split()
            if int(group) == pid and state != "Z" and not ends_soon(int(path.parent.name)):
                return False
    return True


def ends_soon(pid: int) -> bool:
    """Whether the process ends within 2 seconds."""
    fd = os.pidfd_open(pid)
    try:
        return bool(select.select([fd], [], [], 2)[0])
    finally:
        os.close(fd)


REPORT = """echo '{"type": "progress", "phase": "training"}'"""


def interpreter(folder: Path, script: str) -> str:
    """A program to run in the interpreter's place; it leaves its pid in `folder/pid`."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\n{script}\n")
    path.chmod(0o700)
    return str(path)


def group_of(folder: Path) -> int:
    """The process group of the interpreter that was made in `folder`."""
    return int((folder / "pid").read_text())


def run_within(
    seconds: float, folder: Path, script: str, *, match: str, **options: Any
) -> tuple[list[Progress], ProcessFailedError]:
    """Run the script as the worker; what it reported, and the error in which it ended."""
    progress: list[Progress] = []

    async def run() -> None:
        job = pretraining(folder, steps=1)
        with anyio.fail_after(seconds):
            await run_job(
                job, folder / "job", progress.append, python=interpreter(folder, script), **options
            )

    with pytest.raises(ProcessFailedError, match=match) as raised:
        anyio.run(run)
    return progress, raised.value


def worker_pid(folder: Path) -> int:
    """The worker that was started with the job in `folder`, found by its own command line."""
    job = str(folder / "job.json").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if job in path.read_bytes().split(b"\0"):
                return int(path.parent.name)
    raise AssertionError(f"no worker runs {job!r}")


def test_base_is_pretrained_by_itself(tmp_path: Path) -> None:
    """A job goes in, progress comes out line by line, the result names what was made."""
    progress: list[Progress] = []
    job = pretraining(tmp_path, steps=6)
    result = anyio.run(run_job, job, tmp_path / "job", progress.append)
    assert isinstance(result, PretrainResult)
    assert [line.step for line in progress if line.phase == "pretraining"] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "base" / "model.safetensors").is_file()


def test_fault_comes_back_with_its_advice(tmp_path: Path) -> None:
    """What the worker refuses arrives as the error that it was, advice and all."""
    job = ExportBaseJob(
        base_model=str(tmp_path / "nowhere"),
        output_path=str(tmp_path / "base.gguf"),
        result_path=str(tmp_path / "result.json"),
    )
    with pytest.raises(TrainingError, match="nowhere") as raised:
        anyio.run(run_job, job, tmp_path / "job")
    assert "config.json" in (raised.value.advice or "")


def test_killed_worker_is_a_failed_process(tmp_path: Path) -> None:
    """`kill -9` in mid-training ends in ProcessFailedError, and nothing was published."""
    folder = tmp_path / "job"

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(worker_pid(folder), signal.SIGKILL)

    with pytest.raises(ProcessFailedError, match="SIGKILL") as raised:
        anyio.run(run_job, pretraining(tmp_path, steps=LONG), folder, kill)
    assert raised.value.exit_code == -1
    assert not (tmp_path / "base").exists()
    assert not (tmp_path / "result.json").exists()


def test_cancelled_task_ends_the_process_group(tmp_path: Path) -> None:
    """After a cancellation no process of the worker is left, and nothing is published."""
    pids: list[int] = []

    async def cancel_in_training() -> None:
        def on_progress(progress: Progress) -> None:
            if progress.step == 3:
                pids.append(worker_pid(tmp_path / "job"))
                scope.cancel()

        with anyio.CancelScope() as scope:
            await run_job(
                pretraining(tmp_path, steps=LONG),
                tmp_path / "job",
                on_progress,
                stop_grace=timedelta(seconds=5),
            )

    anyio.run(cancel_in_training)
    assert group_is_gone(pids[0])
    assert not (tmp_path / "base").exists()


def test_stubborn_worker_is_killed(tmp_path: Path) -> None:
    """A worker that ignores SIGTERM is killed after the grace time, with all that it started."""
    stubborn = interpreter(tmp_path, f"trap '' TERM\nsleep 600 &\n{REPORT}\nwait\nwait")
    pids: list[int] = []

    async def cancel_at_once() -> None:
        def on_progress(progress: Progress) -> None:
            pids.append(worker_pid(tmp_path / "job"))
            scope.cancel()

        with anyio.CancelScope() as scope:
            await run_job(
                pretraining(tmp_path, steps=1),
                tmp_path / "job",
                on_progress,
                python=stubborn,
                stop_grace=timedelta(seconds=0.2),
            )

    anyio.run(cancel_at_once)
    assert group_is_gone(pids[0])


def test_dead_worker_is_noticed_while_its_child_holds_the_pipe(tmp_path: Path) -> None:
    """The end of the worker counts, not that of its pipe; the child goes, the last line comes."""
    script = f"sleep 301 &\n{REPORT}\nkill -9 $$"
    progress, _ = run_within(10, tmp_path, script, match="SIGKILL")
    assert [line.phase for line in progress] == ["training"]
    assert group_is_gone(group_of(tmp_path))


def test_child_that_writes_on_does_not_hold_the_job(tmp_path: Path) -> None:
    """What comes after the worker's end is read for a limited time, however much there is."""
    script = f"while :; do {REPORT}; done &\nkill -9 $$"
    run_within(10, tmp_path, script, match="SIGKILL")
    assert group_is_gone(group_of(tmp_path))


def test_child_outside_the_group_does_not_hold_the_job(tmp_path: Path) -> None:
    """A child with a session of its own is out of reach; the job ends all the same."""
    script = f"setsid sleep 20 &\necho $! > {tmp_path}/child\nkill -9 $$"
    run_within(10, tmp_path, script, match="SIGKILL")
    with contextlib.suppress(ProcessLookupError):  # killed before it had its own session
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_worker_that_ends_by_itself_leaves_no_child(tmp_path: Path) -> None:
    """A child that has let go of the pipe is ended with its worker too."""
    script = "sleep 301 > /dev/null &\nexit 3"
    run_within(10, tmp_path, script, match="status 3")
    assert group_is_gone(group_of(tmp_path))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(f"{REPORT}\nsleep 301", id="hangs"),
        pytest.param(f"{REPORT}\nexec sleep 301 >&-", id="hangs-with-closed-stdout"),
        pytest.param(f"{REPORT}\nwhile :; do printf x; sleep 0.05; done", id="never-ends-a-line"),
    ],
)
def test_silent_worker_is_ended(tmp_path: Path, script: str) -> None:
    """No line for the limit: the group is ended, and the error says why and what it said last."""
    limit = timedelta(seconds=0.5)
    script = f"echo loading >&2\n{script}"
    progress, error = run_within(
        10, tmp_path, script, silence_limit=limit, match="silent for 0:00:00.5"
    )
    assert [line.phase for line in progress] == ["training"]
    assert error.exit_code == -1
    assert "loading" in error.stderr
    assert group_is_gone(group_of(tmp_path))


def test_worker_that_reports_is_not_silent(tmp_path: Path) -> None:
    """The limit counts from the last line: a run may take longer than it."""
    script = f"for i in 1 2 3 4 5 6 7 8; do {REPORT}; sleep 0.2; done\nexit 3"
    limit = timedelta(seconds=1)
    progress, _ = run_within(10, tmp_path, script, silence_limit=limit, match="status 3")
    assert len(progress) == 8


def test_terminated_worker_is_a_failed_process(tmp_path: Path) -> None:
    """SIGTERM from outside ends the worker at once; it counts as ended by a signal."""
    folder = tmp_path / "job"

    def terminate(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(worker_pid(folder), signal.SIGTERM)

    with pytest.raises(ProcessFailedError, match="SIGTERM") as raised:
        anyio.run(run_job, pretraining(tmp_path, steps=LONG), folder, terminate)
    assert raised.value.exit_code == -1


def test_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """When the process that waits for it is killed, the worker ends too, even if it says nothing."""
    job = tmp_path / "job.json"
    job.write_bytes(msgspec.json.encode(pretraining(tmp_path, steps=LONG)))
    pipe = tmp_path / "pipe"  # held open here: the worker must not learn of it by a broken pipe
    os.mkfifo(pipe)
    parent = f"""
import os, subprocess, sys
command = [sys.executable, "-m", "honed.worker", {str(job)!r}]
with open({str(pipe)!r}, "wb") as out:
    environment = os.environ | {{"HONED_PARENT_PID": str(os.getpid())}}
    subprocess.run(command, stdout=out, env=environment)
"""
    with subprocess.Popen([sys.executable, "-c", parent]) as process, pipe.open("rb") as lines:
        while b'"step":3' not in (line := lines.readline()):
            assert line
        ended = os.pidfd_open(worker_pid(tmp_path))
        process.kill()
        try:
            anyio.run(wait_readable, ended)
        finally:
            os.close(ended)
    assert not (tmp_path / "base").exists()


async def wait_readable(fd: int) -> None:
    """Until the process behind the pidfd has ended."""
    with anyio.fail_after(60):
        await anyio.wait_readable(fd)


def test_fault_without_a_result_carries_stderr(tmp_path: Path) -> None:
    """A worker of another version cannot read the job: status and last words are in the error."""
    strange: Any = ScoreJob(
        base_model="x",
        held_out_path="y",
        candidate_path=None,
        incumbent_path=None,
        result_path=str(tmp_path / "result.json"),
        max_length="long",  # type: ignore[arg-type]
    )
    with pytest.raises(ProcessFailedError, match="cannot be read") as raised:
        anyio.run(run_job, strange, tmp_path / "job")
    assert raised.value.exit_code == 2
    assert "max_length" in raised.value.stderr


def test_interpreter_that_is_missing_is_named(tmp_path: Path) -> None:
    """An interpreter that does not exist is a failed process, not a traceback."""

    async def start() -> None:
        job = pretraining(tmp_path, steps=1)
        await run_job(job, tmp_path / "job", python=str(tmp_path / "python"))

    with pytest.raises(ProcessFailedError, match="could not be started"):
        anyio.run(start)


def test_daemon_side_loads_no_training_stack() -> None:
    """Importing the processors loads neither torch nor any of its relatives."""
    program = (
        "import sys, honed.processors; "
        "print(sorted({'torch','transformers','peft','trl','datasets','gguf'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.strip() == b"[]"
