"""`python -m honed.worker --warm SECONDS`: imports and base model stay loaded, and a fork does each job.

A fork has all that this process has and writes to copies of its own. So a job finds what a new process would have made
for it, and what it took and changed goes with it when it ends; nothing of an accelerator is held between jobs.

This process computes nothing and stays alone with one thread: a fork of a process with OpenMP's threads would hang. It
ends at SIGTERM, when no order comes for SECONDS, or when the daemon is gone.
"""

import contextlib
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from honed.domain.job import Job, ScoreJob, TrainJob, parse_job
from honed.domain.warm import Ended, Order, Taken
from honed.errors import HonedError
from honed.lifeline import adopt_orphans, descendants
from honed.worker.kept import keep
from honed.worker.reporting import EXIT_TERMINATED, PARENT_PID, end_on_sigterm, keep_pipe

DoJob = Callable[[Path, int], int]
"""Does the job in a file, its progress into a pipe; returns the exit status."""
_LINE_MAX: Final = 64 << 10
_TERM: Final = {signal.SIGTERM}


class _Stop:
    """Whether SIGTERM has come while a job ran; the job got it too, and ends in its own way."""

    is_asked = False
    is_working = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        if not self.is_working:
            os._exit(EXIT_TERMINATED)
        self.is_asked = True


def serve(idle_s: float, do_job: DoJob, prepare: Callable[[Job], None]) -> int:
    """Take orders until none comes; returns the exit status.

    Args:
        idle_s: how long to wait for an order.
        do_job: called in a fork.
        prepare: sets the environment of a job, before anything is imported.
    """
    pipe = keep_pipe()
    end_on_sigterm()
    adopt_orphans()
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    for order in _orders(idle_s):
        _say(pipe, Taken())
        _log_into(order.log_path)
        _load(Path(order.job_path), prepare)
        status = _done_by_fork(Path(order.job_path), pipe, do_job, stop)
        _end_left_over()
        if stop.is_asked:
            return EXIT_TERMINATED
        _say(pipe, Ended(status=status))
    return 0


def _orders(idle_s: float) -> Iterator[Order]:
    """The lines of stdin; ends with it, or when none comes for too long."""
    waiting = b""
    while select.select([0], [], [], idle_s)[0]:
        chunk = os.read(0, _LINE_MAX)
        if not chunk:
            return
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            yield msgspec.json.decode(line, type=Order)


def _say(pipe: int, answer: Taken | Ended) -> None:
    try:
        os.write(pipe, msgspec.json.encode(answer) + b"\n")
    except BrokenPipeError:
        os._exit(EXIT_TERMINATED)


def _log_into(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    os.dup2(log, 1)
    os.close(log)


def _load(path: Path, prepare: Callable[[Job], None]) -> None:
    """Have in memory what the job needs; what is wrong with it, the job itself finds and tells."""
    with contextlib.suppress(HonedError, ModuleNotFoundError, msgspec.DecodeError, OSError):
        job = parse_job(path.read_bytes())
        prepare(job)
        if not isinstance(job, TrainJob | ScoreJob):
            return
        import torch

        import honed.worker.fine_tune
        import honed.worker.sft
        import honed.worker.train  # noqa: F401
        from honed.worker.base_model import base_folder

        torch.set_num_threads(1)
        device = job.device if isinstance(job, ScoreJob) else job.settings.device
        if device == "cpu" or not Path("/dev/nvidiactl").exists():
            keep(base_folder(job.base_model))
    gc.collect()
    gc.freeze()  # what is loaded is no garbage, and looking through it again takes half a second


def _done_by_fork(path: Path, pipe: int, do_job: DoJob, stop: _Stop) -> int:
    """Exit status of a fork that does the job; negative: the signal that ended it."""
    parent = os.getpid()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _TERM)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ[PARENT_PID] = str(parent)
            end_on_sigterm()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERM)
            _without_stdin()
            status = do_job(path, pipe)
        except BaseException as error:
            status = _status_of(error)
        finally:
            sys.stderr.flush()
            os._exit(status)
    if signal.SIGTERM in signal.sigpending():
        # From just before the fork, perhaps, which then knows nothing of it and has done nothing yet.
        os.kill(pid, signal.SIGKILL)
    stop.is_working = True
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERM)
    _, ended = os.waitpid(pid, 0)
    stop.is_working = False
    return os.waitstatus_to_exitcode(ended)


def _without_stdin() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _status_of(error: BaseException) -> int:
    """As the interpreter ends with an exception that nobody catches."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    sys.excepthook(type(error), error, error.__traceback__)
    return 1


def _end_left_over() -> None:
    """Kill and reap what the job has left running."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
