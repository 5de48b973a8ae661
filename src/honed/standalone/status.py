"""`training-status.json`: where a run is, replaced whole at each logging step.

Whoever reads it sees the former state or this one. Without the file the log says the same, as far as its last lines go.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from honed.errors import ValidationError
from honed.standalone.training_log import RunStatus, last_state

STATUS_FILE: Final = "training-status.json"
FRESH_SECONDS: Final = 60.0
"""A log or a status that was touched since then is of a run that goes on."""
KILLED: Final = "its process is gone without a word; the same command with --resume goes on"


def write_status(path: Path, status: RunStatus) -> None:
    """Replace the file.

    Raises:
        ValidationError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
        aside.replace(path)
    except OSError as error:
        raise ValidationError(
            f"{path} cannot be written: {error.strerror}", advice="free some space there"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it became the file, or could not be made
            aside.unlink()


def read_status(path: Path, log_path: Path, *, now: float | None = None) -> RunStatus | None:
    """Where a run is: by its file, else by the end of its log; None without either.

    A run that was killed could not write that down: its file still says that it runs, but nobody holds its log.

    Args:
        path: of the status file.
        log_path: of the log.
        now: Unix seconds; None: by the clock.

    Raises:
        ValidationError: the file is no status.
    """
    now = time.time() if now is None else now
    try:
        found = msgspec.json.decode(path.read_bytes(), type=RunStatus)
        is_fresh = now - path.stat().st_mtime <= FRESH_SECONDS
    except FileNotFoundError:
        return _from_log(log_path, now)
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValidationError(f"{path} is no status of a run: {error}") from error
    if found.running and not is_fresh and not _is_held(log_path):
        return replace(found, running=False, eta_seconds=None, error=KILLED)
    return found


def _is_held(log_path: Path) -> bool:
    """Whether a run has the log, which it locks while it works; True where that cannot be known."""
    try:
        with log_path.open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _from_log(path: Path, now: float) -> RunStatus | None:
    found = last_state(path)
    if found is None:
        return None
    is_fresh = now - path.stat().st_mtime <= FRESH_SECONDS
    return replace(found, running=found.running and is_fresh)
