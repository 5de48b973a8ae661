"""Keeps status file and log of a run while the worker reports."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from honed.domain.job import Progress
from honed.domain.times import iso_utc
from honed.domain.train_settings import TrainSettings
from honed.errors import ValidationError
from honed.standalone.resuming import checkpoint_at
from honed.standalone.status import STATUS_FILE, write_status
from honed.standalone.training_log import RunStatus, line_of

LOG_FILE: Final = "logs/training.log"


class Keeper:
    """Writes down where a run is."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Path,
        settings: TrainSettings,
        *,
        started_at: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Say that the run has begun.

        Args:
            folder: where status and log go.
            checkpoints: of the run.
            settings: of the run.
            started_at: when the run began that goes on now; None: now.
            clock: seconds.

        Raises:
            ValidationError: the files cannot be written.
        """
        self._status_path = folder / STATUS_FILE
        self._log_path = folder / LOG_FILE
        self._checkpoints = checkpoints
        self._settings = settings
        self._clock = clock
        self._begun: tuple[int, float] | None = None
        """First step of this process, and when it began."""
        try:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValidationError(
                f"{self._log_path.parent} cannot be made: {error.strerror}"
            ) from error
        self.status = RunStatus(
            running=True,
            started_at=started_at or iso_utc(),
            total_epochs=float(settings.num_train_epochs),
        )
        self._write(self.status)
        self.note("goes on" if started_at else "started")

    def take(self, progress: Progress) -> None:
        """What the worker reports."""
        if progress.note is not None:
            self.note(progress.note)
        if progress.total_steps is None or progress.step is None:
            return
        if self._begun is None:
            self._begun = (progress.step, self._clock())
        if progress.validation_loss is not None:
            self.note(f"validation loss {progress.validation_loss:.4f} after step {progress.step}")
        if progress.loss is None:
            self._write(replace(self.status, total_steps=progress.total_steps))
            return
        self._write(self._after(progress.step, progress.total_steps, progress))
        self._log()

    def _after(self, step: int, total: int, progress: Progress) -> RunStatus:
        assert self._begun is not None
        first, at = self._begun
        done = step - first
        eta = (self._clock() - at) / done * (total - step) if done > 0 else None
        epoch = progress.epoch or 0.0
        epochs = self.status.total_epochs
        if self._settings.max_steps is not None and step:
            epochs = round(epoch * total / step, 2)
        return replace(
            self.status,
            step=step,
            total_steps=total,
            epoch=epoch,
            total_epochs=epochs,
            loss=progress.loss,
            learning_rate=progress.learning_rate,
            eta_seconds=eta,
        )

    def complete(self) -> None:
        """The run has done all it was to do."""
        self._write(replace(self.status, running=False, eta_seconds=0.0, completed_at=iso_utc()))
        self._log()

    def fail(self, error: str) -> None:
        """The run has ended otherwise; on a full disk the files stay as they are, and the run's own error goes up."""
        with contextlib.suppress(ValidationError):
            self._write(replace(self.status, running=False, eta_seconds=None, error=error))
            self._log()

    def note(self, text: str) -> None:
        """A line of the log that is no step."""
        self._append(f"{iso_utc()} {text}")

    def _write(self, status: RunStatus) -> None:
        self.status = replace(
            status, checkpoint_at=checkpoint_at(self._checkpoints), last_updated=iso_utc()
        )
        write_status(self._status_path, self.status)

    def _log(self) -> None:
        self._append(line_of(self.status))

    def _append(self, line: str) -> None:
        try:
            with self._log_path.open("a", encoding="utf-8") as file:
                file.write(line.replace("\n", " ") + "\n")
        except OSError as error:
            raise ValidationError(
                f"{self._log_path} cannot be written: {error.strerror}",
                advice="free some space there",
            ) from error
