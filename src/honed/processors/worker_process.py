"""One job in one worker process: started, listened to, ended, reaped.

The worker leads a process group of its own. When the task that waits for it is cancelled, or when
the worker is silent for too long, the group gets SIGTERM, a grace time, then SIGKILL; whatever the
worker leaves behind in its group when it ends is killed too. The worker carries a death signal for
the case that this process is killed. A worker that ends without a result, or by a signal, is a
failure, whatever it had done until then.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio.abc import Process

from honed import log
from honed.domain.job import EXIT_UNWRITTEN, Job, JobFailed, JobResult, Progress, parse_result
from honed.domain.warm import Ended, Taken
from honed.errors import (
    EmptyDataError,
    HonedError,
    ParityError,
    ProcessFailedError,
    TrainingError,
    UnsupportedError,
)
from honed.ports import OnProgress

DEFAULT_GRACE: Final = timedelta(seconds=10)
DEFAULT_SILENCE: Final = timedelta(minutes=30)
"""How long a worker may report nothing; loading or converting a large model takes minutes."""
DRAIN_SECONDS: Final = 1.0
"""How long the stdout of a worker that has ended is still read; its children may hold it open."""
LINE_MAX: Final = 64 << 10
"""Bytes of one line of progress; a longer one is not ours."""
TAIL_BYTES: Final = 4000
"""How much of the worker's stderr an error carries."""
Message = Progress | Taken | Ended
_MESSAGES: Final = msgspec.json.Decoder(Message)
_KINDS: Final[Mapping[str, type[HonedError]]] = {
    cls.__name__: cls for cls in (EmptyDataError, ParityError, TrainingError, UnsupportedError)
}


async def run_job(
    job: Job,
    folder: Path,
    on_progress: OnProgress = lambda progress: None,
    *,
    python: str = sys.executable,
    stop_grace: timedelta = DEFAULT_GRACE,
    silence_limit: timedelta = DEFAULT_SILENCE,
) -> JobResult:
    """Do a job in a worker process and return its result.

    Args:
        job: its `result_path` may lie anywhere; a former result there is removed first.
        folder: where `job.json` and `worker.log` (the worker's stderr) go; made when missing.
        on_progress: called for each line of progress, in this task.
        python: the interpreter that has the training stack.
        stop_grace: how long a worker that is told to end may take to end by itself.
        silence_limit: a worker that writes no line for so long counts as hung and is ended.

    Raises:
        TrainingError: the worker says why it failed, by the class (EmptyDataError, ParityError,
            UnsupportedError) where there is one for it.
        ProcessFailedError: it ended without a result, or was silent for too long.
    """
    job_path, log_path = prepare_folder(job, folder)
    logger = log.get(job=type(job).__name__, folder=str(folder))
    worker = await start_worker([python, "-m", "honed.worker", str(job_path)], log_path)
    try:
        logger.info(log.WORKER_STARTED, worker_pid=worker.pid)
        async with contextlib.aclosing(messages(worker, silence_limit)) as lines:
            async for message in lines:
                if isinstance(message, Progress):
                    on_progress(message)
        is_silent = worker.returncode is None
    finally:
        await end_worker(worker, stop_grace)
    logger.info(log.WORKER_ENDED, status=worker.returncode)
    if is_silent:
        raise silent(silence_limit, log_path)
    return result_of(worker.returncode, Path(job.result_path), log_path)


def prepare_folder(job: Job, folder: Path) -> tuple[Path, Path]:
    """Write the job file and clear its result; returns the paths of job and log.

    Raises:
        TrainingError: there is no room for it, or no right.
    """
    job_path, log_path = folder / "job.json", folder / "worker.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(job.result_path).unlink(missing_ok=True)
        job_path.write_bytes(msgspec.json.encode(job))
        log_path.touch()
    except OSError as error:
        raise TrainingError(
            f"the job cannot be written into {folder}: {error.strerror}",
            advice="free some space there, or move data_dir",
        ) from error
    return job_path, log_path


async def start_worker(
    command: list[str], log_path: Path, *, stdin: int = subprocess.DEVNULL
) -> Process:
    """A process that leads a group of its own; whoever starts it ends it with `end_worker`.

    Raises:
        ProcessFailedError: it cannot be started.
    """
    with log_path.open("ab") as stderr:
        try:
            return await anyio.open_process(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "HONED_PARENT_PID": str(os.getpid())},
            )
        except OSError as error:
            raise ProcessFailedError(
                f"the worker could not be started with {command[0]}: {error.strerror}",
                exit_code=-1,
                advice="name an interpreter that has honed[train]",
            ) from error


async def end_worker(worker: Process, stop_grace: timedelta) -> None:
    """End the process and all of its group, and reap it, also in a task that is cancelled."""
    with anyio.CancelScope(shield=True):
        if worker.returncode is None:
            _signal_group(worker, signal.SIGTERM)
            with anyio.move_on_after(stop_grace.total_seconds()):
                await worker.wait()
        # The group outlives its leader for as long as anything the worker started runs in it.
        _signal_group(worker, signal.SIGKILL)
        await worker.wait()
        await worker.aclose()


def _signal_group(worker: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, number)


async def messages(worker: Process, silence_limit: timedelta) -> AsyncGenerator[Message]:
    """What the worker says, until it has ended; or until it was silent, and still runs."""
    waiting = b""
    async with contextlib.aclosing(chunks(worker, silence_limit)) as received:
        async for chunk in received:
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                try:
                    yield _MESSAGES.decode(line)
                except msgspec.DecodeError:
                    # The pipe is the protocol's alone (worker/reporting.py): this is another
                    # version or a fault.
                    log.get().warning(log.WORKER_WROTE, size_bytes=len(line))
            if len(waiting) > LINE_MAX:
                log.get().warning(log.WORKER_WROTE, size_bytes=len(waiting))
                waiting = b""


async def chunks(worker: Process, silence_limit: timedelta) -> AsyncGenerator[bytes]:
    """The bytes of its stdout, until it has ended; or until no line came for so long, and it still runs."""
    silent_at = anyio.current_time() + silence_limit.total_seconds()
    while (chunk := await _chunk_or_end(worker, silent_at)) is not None:
        if b"\n" in chunk:
            silent_at = anyio.current_time() + silence_limit.total_seconds()
        yield chunk
    if worker.returncode is None:
        return
    # The end of the pipe is no sign to wait for: a child of the worker may hold it, and write.
    drained_at = anyio.current_time() + DRAIN_SECONDS
    while anyio.current_time() < drained_at and (chunk := await _left(worker, drained_at)):
        yield chunk


async def _chunk_or_end(worker: Process, silent_at: float) -> bytes | None:
    """The next bytes of stdout; None when the worker has ended, or at `silent_at`."""
    assert worker.stdout is not None
    chunk = None
    with anyio.CancelScope(deadline=silent_at):
        async with anyio.create_task_group() as race:
            race.start_soon(_cancel_at_end, worker, race.cancel_scope)
            try:
                chunk = await worker.stdout.receive()
            except anyio.EndOfStream:
                await worker.wait()  # it closed its stdout, but may hang all the same
            race.cancel_scope.cancel()
    return chunk


async def _cancel_at_end(worker: Process, scope: anyio.CancelScope) -> None:
    await worker.wait()
    scope.cancel()


async def _left(worker: Process, drained_at: float) -> bytes:
    """What is left in the stdout of a worker that has ended; empty when nothing more came."""
    assert worker.stdout is not None
    with anyio.CancelScope(deadline=drained_at), contextlib.suppress(anyio.EndOfStream):
        return await worker.stdout.receive()
    return b""


def result_of(status: int | None, result_path: Path, log_path: Path) -> JobResult:
    """The result file of a worker that ended with `status`.

    Raises:
        TrainingError: the worker says why it failed; see `run_job`.
        ProcessFailedError: there is none.
    """
    result = None
    if status in (0, 1) and result_path.is_file():
        try:
            result = parse_result(result_path.read_bytes())
        except msgspec.DecodeError as error:
            raise ProcessFailedError(
                f"the worker's result {result_path} cannot be read: {error}",
                exit_code=status,
                advice="daemon and worker must be of one version",
            ) from error
    match status, result:
        case 0, (result) if result is not None and not isinstance(result, JobFailed):
            return result
        case 1, JobFailed():
            raise _KINDS.get(result.kind, TrainingError)(result.message, advice=result.advice)
        case int(), None if status == EXIT_UNWRITTEN:
            raise TrainingError(
                f"the worker could not write its result into {result_path.parent}: the disk is full, or it is gone",
                advice="free some space there",
            )
    raise _without_result(status, log_path)


def _without_result(status: int | None, log_path: Path) -> ProcessFailedError:
    stderr = tail(log_path)
    number = signal_of(status)
    if number is not None:
        how = f"was ended by {signal.Signals(number).name}"
    else:
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "no message")
        how = f"ended with status {status}: {last.strip()}"
    return ProcessFailedError(
        f"the worker {how}",
        exit_code=-1 if number is not None or status is None else status,
        stderr=stderr,
        advice=f"see {log_path}"
        + ("; the kernel kills for memory with SIGKILL" if number == signal.SIGKILL else ""),
    )


def silent(limit: timedelta, log_path: Path) -> ProcessFailedError:
    """The error of a worker that was ended because it said nothing."""
    return ProcessFailedError(
        f"the worker was silent for {limit} (h:mm:ss) and was ended: expected a line of progress",
        exit_code=-1,
        stderr=tail(log_path),
        advice=f"see {log_path} for where it hangs",
    )


def tail(log_path: Path) -> str:
    """The last of what the worker wrote to stderr."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:  # the run's folder is gone
        return ""


def signal_of(status: int | None) -> int | None:
    """The signal that ended a process: as the kernel says it, or as our worker does (128 + n)."""
    if status is None:
        return None
    number = -status if status < 0 else status - 128
    return number if number in {item.value for item in signal.Signals} else None
