"""`training-status.json`: where a run is, replaced whole at each logging step.

Whoever reads it sees the former state or this one. Without the file the log says the same, as far as its last lines go.
"""

import os
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from honed.errors import ValidationError
from honed.standalone.training_log import last_state

STATUS_FILE: Final = "training-status.json"
FRESH_SECONDS: Final = 60.0
"""A log that was touched since then is of a run that goes on."""


class RunStatus(Struct, frozen=True, kw_only=True):
    """Where a run is; times are ISO 8601 in UTC."""

    running: bool
    step: int = 0
    total_steps: int = 0
    """0 until the rows are counted."""
    epoch: float = 0.0
    total_epochs: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    eta_seconds: float | None = None
    """None until a step is done."""
    started_at: str | None = None
    """Kept when a run goes on that was cut off."""
    checkpoint_at: str | None = None
    """When the last checkpoint was complete."""
    completed_at: str | None = None
    """Of a run that has done all it was to do."""
    last_updated: str = ""
    error: str | None = None


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


def read_status(path: Path, log_path: Path, *, now: float | None = None) -> RunStatus | None:
    """Where a run is: by its file, else by the end of its log; None without either.

    Args:
        path: of the status file.
        log_path: of the log.
        now: Unix seconds; None: by the clock.

    Raises:
        ValidationError: the file is no status.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunStatus)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValidationError(f"{path} is no status of a run: {error}") from error
    return _from_log(log_path, time.time() if now is None else now)


def _from_log(path: Path, now: float) -> RunStatus | None:
    found = last_state(path)
    if found is None:
        return None
    is_ended = found.completed_at is not None or found.error is not None
    is_fresh = now - path.stat().st_mtime <= FRESH_SECONDS
    return RunStatus(
        running=is_fresh and not is_ended,
        step=found.step,
        total_steps=found.total_steps,
        epoch=found.epoch,
        total_epochs=found.total_epochs,
        loss=found.loss,
        learning_rate=found.learning_rate,
        eta_seconds=found.eta_seconds,
        started_at=found.started_at,
        checkpoint_at=found.checkpoint_at,
        completed_at=found.completed_at,
        last_updated=found.at,
        error=found.error,
    )
