"""SIGTERM in the middle of a run: its step ends, a checkpoint is written, and the process ends.

Outside the steps of a run SIGTERM ends the worker at once (worker/reporting.py): nothing there is worth keeping.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from honed.worker.checkpoints import is_evaluated_next


class StoppedError(SystemExit):
    """The run was asked to stop and has left a checkpoint; the exit status is that of SIGTERM."""

    def __init__(self, step: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.step = step


class Stopping(TrainerCallback):  # type: ignore[misc]
    """Ends the run after the step in which it was asked to."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """In the body SIGTERM asks; a second one ends the process at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self.is_asked = True
            signal.signal(signal.SIGTERM, former)

        former = signal.signal(signal.SIGTERM, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save and stop, when asked."""
        if self.is_asked:
            control.should_save = not is_evaluated_next(args, state)
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """To the trainer an epoch that was broken off has ended; nothing is evaluated in its middle."""
        if self.is_asked and not is_evaluated_next(args, state):
            control.should_evaluate = control.should_save = False
