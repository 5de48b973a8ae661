"""Failures that say nothing of the job: the machine has no more memory or no more room."""

import errno
from typing import Final

from honed.domain.job import JobFailed
from honed.errors import TrainingError

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS: Final = ("No space left on device", "Disk quota exceeded", "File too large")
"""As C and Rust libraries say it, which raise errors of their own."""


def shortage(error: Exception, *, can_go_on: bool = False) -> JobFailed | None:
    """What the operator is told of an error that comes from a shortage; None for any other.

    Args:
        error: of the job.
        can_go_on: whether somebody may have the run go on from its checkpoint.
    """
    text = str(error)
    first_line = text.splitlines()[0] if text else "no detail"
    if is_out_of_memory(error):
        return JobFailed(
            kind=TrainingError.__name__,
            message=f"out of memory: {first_line}",
            advice="halve train.per_device_train_batch_size and double "
            "train.gradient_accumulation_steps, or lower train.max_length",
        )
    if _is_full(error, text):
        return JobFailed(
            kind=TrainingError.__name__,
            message=f"the disk is full: {first_line}",
            advice="free some space there; the same command with --resume goes on"
            if can_go_on
            else "free some space where data_dir is, or move data_dir; the next run starts afresh",
        )
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch has a class of its own for CUDA, and a plain RuntimeError for the CPU."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _is_full(error: Exception, text: str) -> bool:
    is_told = isinstance(error, OSError) and error.errno in _FULL
    return is_told or any(each in text for each in _FULL_TEXTS)
