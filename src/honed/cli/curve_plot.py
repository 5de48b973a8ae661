"""Curves over steps as text for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

_COLUMNS: Final = 72
_ROWS: Final = 12
_BOTH: Final = "*"

Points = Sequence[tuple[int, float]]


def curves(found: Mapping[str, Points], *, y_name: str) -> Iterator[str]:
    """Lines of text: each curve in its own character, `*` where several meet; nothing of curves without a point.

    Args:
        found: by the one character that a curve is drawn in, its points in order of steps.
        y_name: what the values are.
    """
    points = [point for curve in found.values() for point in curve]
    if not points:
        return
    last = max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    grid = [[" "] * _COLUMNS for _ in range(_ROWS)]
    for mark, curve in found.items():
        for column, value in _columns(curve, last):
            row = _ROWS - 1 if high == low else round((_ROWS - 1) * (high - value) / (high - low))
            grid[row][column] = mark if grid[row][column] in (" ", mark) else _BOTH
    width = max(len(f"{value:.3f}") for value in (low, high))
    yield f"{'':{width}}  {y_name}"
    for number, cells in enumerate(grid):
        label = {0: f"{high:.3f}", _ROWS - 1: f"{low:.3f}"}.get(number, "")
        yield f"{label:>{width}} |{''.join(cells)}".rstrip()
    yield f"{'':{width}} +{'-' * _COLUMNS}"
    yield f"{'':{width}}  step 0{f'step {last}':>{_COLUMNS - 6}}"


def _columns(curve: Points, last: int) -> Iterator[tuple[int, float]]:
    """Each column from the curve's first point to its last: the mean of the points in it, else on the line between
    their neighbours.
    """
    if not curve:
        return
    sums: dict[int, list[float]] = {}
    for step, value in curve:
        column = min(_COLUMNS - 1, step * (_COLUMNS - 1) // max(last, 1))
        sums.setdefault(column, []).append(value)
    known = [(column, sum(values) / len(values)) for column, values in sorted(sums.items())]
    for (left, a), (right, b) in pairwise(known):
        for column in range(left, right):
            yield column, a + (b - a) * (column - left) / (right - left)
    yield known[-1]
