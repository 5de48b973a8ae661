"""Which model and settings fit which GPU: the table of known cards, and what known models need in 4 bits."""

import re
from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Tier:
    """A row of the table."""

    least: int
    """GiB of the card from which on it holds."""
    model: str
    batch_size: tuple[int, int]
    """From, to."""
    accumulation: int
    r: int
    max_length: int

    @property
    def settings(self) -> str:
        """In words."""
        least, most = self.batch_size
        batch = str(least) if least == most else f"{least}-{most}"
        return (
            f"batch {batch}, accumulation {self.accumulation}, r {self.r}, length {self.max_length}"
        )


TIERS: Final = (
    Tier(0, "a tiny test model on the CPU", (1, 1), 1, 8, 256),
    Tier(8, "gemma-3-4b", (1, 1), 8, 8, 1024),
    Tier(12, "gemma-3-4b", (2, 2), 4, 8, 2048),
    Tier(16, "gemma-3-12b", (2, 4), 4, 16, 2048),
    Tier(24, "gemma-3-27b", (4, 8), 2, 32, 4096),
)
"""By memory of the card, rising."""

NEEDS: Final = (
    (re.compile(r"gemma.*\b27b\b"), 24),
    (re.compile(r"gemma.*\b12b\b"), 16),
    (re.compile(r"gemma.*\b4b\b"), 8),
    (re.compile(r"llama.*\b8b\b"), 10),
    (re.compile(r"qwen.*\b7b\b"), 10),
    (re.compile(r"mistral.*\b7b\b"), 8),
)
"""GiB that a run with a 4-bit base needs, by the model's name."""


def tier_of(total_bytes: int) -> Tier:
    """The row of a card, or that without a GPU for 0 bytes.

    A card reports a little less than it is sold as (24,564 MiB for 24 GB): whole GiB decide.
    """
    size = round(total_bytes / GIB)
    return next(tier for tier in reversed(TIERS) if tier.least <= size)


def needed_gib(base_model: str) -> int | None:
    """What a known model needs in 4 bits; None for others."""
    name = base_model.lower().replace("_", "-")
    return next((need for pattern, need in NEEDS if pattern.search(name)), None)
