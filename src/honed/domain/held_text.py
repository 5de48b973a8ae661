"""What is remembered for ever of a text that was held out, so that nothing like it is learned from later.

It tells whether another text says the same, or nearly so, and nothing else: all of it comes of keyed hashes, so that
without the key not even a short text can be guessed and tried. It outlives the episode, also one that is forgotten.
"""

import math
from operator import eq
from typing import Final, NamedTuple

NUM_PARTS: Final = 128
"""As many as hashes in a sketch of MinHash; the share of equal ones estimates how much two texts have in common."""


class HeldText(NamedTuple):
    """A text, as keyed hashes tell it."""

    digest: bytes
    """Of its words, 16 bytes: equal where two texts say the same to the word."""
    parts: bytes = b""
    """Two bytes for each hash of its sketch; empty where there was nothing to make one with."""
    bands: tuple[int, ...] = ()
    """Where it is found: each stands for a few of its hashes, and texts that say nearly the same share some."""


def least_equal(similarity: float) -> int:
    """How many equal parts make two texts nearly the same."""
    return math.ceil(similarity * NUM_PARTS - 1e-9)


def num_equal(parts: bytes, others: bytes) -> int:
    """In how many parts two texts agree."""
    return sum(map(eq, memoryview(parts).cast("H"), memoryview(others).cast("H")))
