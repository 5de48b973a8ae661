"""What a run that does not fit into memory tries next: smaller batches that learn the same, then shorter rows.

A step learns from as many rows as before as long as batches can be halved: accumulation doubles. Rows are shortened
only when one row at a time does not fit; then the longest lose their last turns, which is told.
"""

from typing import Final

from msgspec.structs import replace

from honed.domain.job import TrainSettings

SHORTEST: Final = 256
"""Tokens; a row that is shorter holds hardly a conversation."""


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
