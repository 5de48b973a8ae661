"""How the worker speaks to whoever started it: progress lines out, one result file, an exit status.

The pipe behind stdout belongs to the protocol alone. Libraries print; so the pipe is moved away
before they are imported, and what they print goes to stderr.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from honed.domain.job import JobResult, Progress
from honed.lifeline import end_with_parent
from honed.worker.files import write_file

Report = Callable[[Progress], None]
"""Takes each piece of progress."""

EXIT_TERMINATED: Final = 128 + signal.SIGTERM
PARENT_PID: Final = "HONED_PARENT_PID"
"""Environment variable with the pid of the process that waits for the result."""


def keep_pipe() -> int:
    """Keep the real stdout for the protocol; from now on file descriptor 1 leads to stderr."""
    pipe = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    return pipe


def report_into(pipe: int) -> Report:
    """Progress as JSON lines into the pipe; the process ends when nobody reads it."""

    def report(progress: Progress) -> None:
        try:
            os.write(pipe, msgspec.json.encode(progress) + b"\n")
        except BrokenPipeError:
            os._exit(EXIT_TERMINATED)  # nobody waits for the result any more

    return report


def end_on_sigterm() -> None:
    """End at SIGTERM at once, and when the parent dies; files are whole or absent, so nothing needs
    closing.

    The kernel ties the death signal to the thread that started the worker.
    """
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C on a terminal is the parent's to handle
    parent = os.environ.get(PARENT_PID)
    # SIGKILL: a worker that hangs in a library's code would never come round to our handler.
    end_with_parent(signal.SIGKILL, parent=int(parent) if parent else None)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def write_result(path: Path, result: JobResult) -> None:
    """Write the result file; whole or absent."""
    write_file(path, msgspec.json.encode(result))
