"""What a run that does not fit into memory tries next: smaller batches that learn the same, then shorter rows.

A step learns from as many rows as before as long as batches can be halved: accumulation doubles. Rows are shortened
only when one row at a time does not fit; then the longest lose their last turns, which is told.
"""

import itertools
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from msgspec.structs import replace

from honed.domain.job import Progress, TrainSettings
from honed.worker.memory import give_back
from honed.worker.reporting import Report
from honed.worker.shortage import is_out_of_memory

T = TypeVar("T")

SHORTEST: Final = 256
"""Tokens; a row that is shorter holds hardly a conversation."""


class Rows(Protocol):
    """What is trained on."""

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""


R = TypeVar("R", bound=Rows)


def that_fits(
    settings: TrainSettings,
    rows_of: Callable[[TrainSettings], R],
    tune: Callable[[R, TrainSettings, int], T],
    report: Report,
) -> tuple[TrainSettings, T]:
    """Train; out of memory, with smaller settings. Those that fitted, and what came out.

    Args:
        settings: tried first.
        rows_of: makes the rows for settings.
        tune: trains on them; also told how often it was tried before.
        report: hears what is tried next.
    """
    for tried in itertools.count():
        rows = rows_of(settings)
        try:
            return settings, tune(rows, settings, tried)
        except Exception as error:
            less = smaller(settings, longest=rows.longest) if is_out_of_memory(error) else None
            if less is None:
                raise
        give_back()  # outside the handler, whose traceback holds the model
        settings = less
        report(Progress(phase="training", note=told(settings)))
    raise AssertionError("it fits or raises")


def smaller(settings: TrainSettings, *, longest: int) -> TrainSettings | None:
    """The next smaller settings; None when there are none.

    Args:
        settings: that did not fit.
        longest: tokens of the longest row under them.
    """
    batch = settings.per_device_train_batch_size
    if batch > 1:
        return replace(
            settings,
            per_device_train_batch_size=batch // 2,
            gradient_accumulation_steps=-(
                -settings.gradient_accumulation_steps * batch // (batch // 2)
            ),
        )
    length = min(settings.max_length, longest) // 2
    return replace(settings, max_length=length) if length >= SHORTEST else None


def told(settings: TrainSettings) -> str:
    """What is tried, for the operator."""
    return (
        f"out of memory: goes on with batches of {settings.per_device_train_batch_size}, "
        f"{settings.gradient_accumulation_steps} to a step, rows of up to {settings.max_length} tokens"
    )
