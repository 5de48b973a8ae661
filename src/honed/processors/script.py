"""A training script in a process group of its own: started, listened to, ended, reaped.

Whatever the script leaves behind in its group ends with it; the group ends when the task that waits is cancelled, and
the script when this process is killed.
"""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from honed import log
from honed.errors import ProcessFailedError, ScriptNotFoundError
from honed.processors.worker_process import (
    DEFAULT_GRACE,
    LINE_MAX,
    chunks,
    end_worker,
    signal_of,
    start_worker,
    tail,
)

NEVER: Final = timedelta(days=365)
"""Nothing says that somebody else's script reports anything before its end."""


def check_script(python: str, script: Path | None) -> None:
    """Make sure that the script and its interpreter are there.

    Raises:
        ScriptNotFoundError: one is not.
    """
    if script is not None and not script.is_file():
        raise ScriptNotFoundError(
            f"training script {script} is not there: expected a file",
            advice="leave train_script out for the one that comes with honed",
        )
    if shutil.which(python) is None:
        raise ScriptNotFoundError(
            f"interpreter {python} is not there: expected a program",
            advice="set python_path to an interpreter that has what the script imports",
        )


async def run_script(
    command: Sequence[str],
    log_path: Path,
    on_line: Callable[[bytes], object],
    *,
    stop_grace: timedelta = DEFAULT_GRACE,
    silence_limit: timedelta = NEVER,
) -> None:
    """Run a script to its end.

    Args:
        command: program and arguments.
        log_path: where its stderr goes, behind what is there.
        on_line: called for each line of its stdout, in this task; of an overlong one, nothing.
        stop_grace: how long it may take to end by itself when the task is cancelled.
        silence_limit: a script that writes no line for so long counts as hung and is ended.

    Raises:
        ProcessFailedError: it did not end with status 0; with what it last wrote to stderr.
    """
    lifeline = [sys.executable, "-m", "honed.lifeline", str(os.getpid())]
    logger = log.get(command=shlex.join(command))
    process = await start_worker([*lifeline, *command], log_path)
    logger.info(log.WORKER_STARTED, worker_pid=process.pid)
    waiting, status = b"", None
    try:
        async with contextlib.aclosing(chunks(process, silence_limit)) as read:
            async for chunk in read:
                *lines, waiting = (waiting + chunk).split(b"\n")
                for line in lines:
                    on_line(line)
                waiting = waiting if len(waiting) <= LINE_MAX else b""
        if waiting:
            on_line(waiting)
        status = process.returncode
    finally:
        await end_worker(process, stop_grace)
    logger.info(log.WORKER_ENDED, status=status)
    if status != 0:
        raise _failed(status, silence_limit, log_path)


def _failed(status: int | None, silence_limit: timedelta, log_path: Path) -> ProcessFailedError:
    stderr = tail(log_path)
    if status is None:
        how = f"was silent for {silence_limit} (h:mm:ss) and was ended"
    elif (number := signal_of(status)) is not None:
        status, how = -1, f"was ended by signal {number}"
    else:
        last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "no message")
        how = f"ended with status {status}: {last.strip()}"
    return ProcessFailedError(
        f"the training script {how}",
        exit_code=-1 if status is None else status,
        stderr=stderr,
        advice=f"see {log_path}",
    )
