"""One job at a time on an accelerator, whatever daemon of this machine it is of.

Two trainings on one GPU do not take turns by themselves: the second one finds no memory. So whoever computes on it
holds a lock on a file that is named after it, for as long as the process lives.
"""

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from honed.domain.job import Progress
from honed.errors import TrainingError
from honed.worker.reporting import Report

PLACES: Final = (Path("/run/lock"), Path(tempfile.gettempdir()))
"""Where every user of the machine may make a file; the first that is there."""
WAIT_S: Final = 3600.0
"""How long a job waits for another one; a run that takes longer is told of, and tried again later."""
_LOOK_S: Final = 1.0
_TELL_S: Final = 30.0


def device_name(device: str) -> str:
    """Names the accelerator that this process sees, as the machine does: `cuda-0`, `cuda-GPU-4f1c...`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return f"{device}-{re.sub(r'[^A-Za-z0-9-]', '_', visible)}"


@contextlib.contextmanager
def alone_on(device: str, report: Report, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Compute on a device in the body, no other job beside it; nothing is held for the CPU.

    Raises:
        TrainingError: another job held it all the while, or the lock's file cannot be opened.
    """
    if device == "cpu":
        yield
        return
    name = device_name(device)
    with _opened(name) as file:
        _take(file, name, report, wait_s)
        yield


@contextlib.contextmanager
def _opened(name: str) -> Iterator[int]:
    place = next((place for place in PLACES if place.is_dir()), PLACES[-1])
    path = place / f"honed-{name}.lock"
    try:
        file = _open(path)
    except OSError as error:
        raise TrainingError(
            f"the lock of the accelerator {name}, {path}, cannot be opened: {error.strerror}",
            advice="let this user read that file, or remove it",
        ) from error
    try:
        yield file
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """For reading, which is enough to lock it; a file of another user may be there already."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def _take(file: int, name: str, report: Report, wait_s: float) -> None:
    started = told = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            now = time.monotonic()
            if now - started >= wait_s:
                raise TrainingError(
                    f"the accelerator {name} is in use by another training on this machine: waited "
                    f"{now - started:.0f} s for it",
                    advice="let the other daemon train at another time (`window(...)` in its trigger), or give this "
                    "one another device with CUDA_VISIBLE_DEVICES",
                ) from None
            if now - told >= _TELL_S or told == started:
                report(Progress(phase="waiting", note=f"for the accelerator {name}"))
                told = now
            time.sleep(min(_LOOK_S, wait_s / 10))
        else:
            return
