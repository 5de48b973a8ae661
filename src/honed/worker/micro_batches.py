"""Which rows of a step go through the model together: rows of like length, so that little is padding."""

from collections.abc import Sequence
from typing import Final

OVERHEAD: Final = 128
"""Tokens whose computation takes about as long as one pass more. Measured on one core: 100 for 11 M parameters, 250 for
0.5 M; for larger models it is less, and matters less."""


def micro_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Divide rows so that padding and passes together cost least; indexes, the shortest rows first.

    Args:
        lengths: tokens of each row.
        max_tokens: of one micro-batch, padding counted; a row that is longer goes alone.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    costs: list[float] = [0.0]
    """Of the shortest rows, by their number."""
    begins = [0]
    """Where the last of their micro-batches begins."""
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        possible = range(end - max(1, min(end, max_tokens // longest)), end)
        found = [costs[begin] + (end - begin) * longest + OVERHEAD for begin in possible]
        costs.append(min(found))
        begins.append(possible[found.index(costs[end])])
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.append(order[begins[end] : end])
        end = begins[end]
    return groups[::-1]
