"""Episodes that wait to be learned from over time, with the firings of a rule: for terminals and as SVG."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from honed.demo.plots import Mark, Point, curve

_COLUMNS: Final = 72
_ROWS: Final = 8
_BUCKETS: Final = 720
"""Points of the curve; a multiple of the columns."""
_MARKS: Final = 60
"""Firings that the SVG names with their number; more of them would be a smear."""
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_HOUR_MS: Final = 3_600_000
_STYLE: Final = """\
svg { background: #fff; } text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #39424f; }
.note { font-size: 11px; fill: #5c6672; } .end { text-anchor: end; } .start { text-anchor: start; }
.grid { stroke: #ececE6; fill: none; } .mark { stroke: #b3372f; stroke-dasharray: 4 3; fill: none; }
.line { fill: none; stroke-width: 1.8; stroke: #2b7a78; } .key { fill: #2b7a78; }
"""


class Course:
    """How many episodes waited, the most in each of a fixed number of parts of the time."""

    def __init__(self, since_ms: int, until_ms: int) -> None:
        self.since_ms = since_ms
        self.until_ms = max(until_ms, since_ms + 1)
        self._most: list[int | None] = [None] * _BUCKETS
        self._last: list[int | None] = [None] * _BUCKETS

    def add(self, at_ms: int, waiting: int) -> None:
        """So many wait from then on; in order of time."""
        bucket = self._bucket(at_ms)
        self._most[bucket] = max(waiting, self._most[bucket] or 0)
        self._last[bucket] = waiting

    def most(self) -> list[int]:
        """For each part; one in which nothing happened has what was left by the one before."""
        left, found = 0, list[int]()
        for most, last in zip(self._most, self._last, strict=True):
            found.append(left if most is None else max(most, left if not found else 0))
            left = left if last is None else last
        return found

    def at_ms(self, bucket: int) -> float:
        """When a part begins."""
        return self.since_ms + (self.until_ms - self.since_ms) * bucket / _BUCKETS

    def column(self, at_ms: int) -> int:
        """Where in the terminal's plot."""
        return self._bucket(at_ms) * _COLUMNS // _BUCKETS

    def _bucket(self, at_ms: int) -> int:
        share = (at_ms - self.since_ms) / (self.until_ms - self.since_ms)
        return min(_BUCKETS - 1, max(0, int(share * _BUCKETS)))


def bars(course: Course, firings: Sequence[int]) -> Iterator[str]:
    """Lines of text: bars of waiting episodes, a caret below each column in which the rule fires."""
    most, each = course.most(), _BUCKETS // _COLUMNS
    columns = [max(most[at : at + each]) for at in range(0, _BUCKETS, each)]
    top = max(max(columns), 1)
    width = len(str(top))
    yield f"{'':{width}}  episodes that wait"
    for row in reversed(range(_ROWS)):
        cells = (
            _EIGHTHS[min(8, max(0, round(8 * (_ROWS * value / top - row))))] for value in columns
        )
        label = str(top) if row == _ROWS - 1 else ("0" if row == 0 else "")
        yield f"{label:>{width}} |{''.join(cells)}".rstrip()
    fired = {course.column(at_ms) for at_ms in firings}
    carets = "".join("^" if column in fired else " " for column in range(_COLUMNS))
    yield f"{'':{width}}  {carets}".rstrip()
    since, until = (f"{_day(ms)} UTC" for ms in (course.since_ms, course.until_ms))
    yield f"{'':{width}}  {since}{until:>{_COLUMNS - len(since)}}"


def svg(course: Course, firings: Sequence[int], *, title: str) -> str:
    """A file of its own: the curve in hours since the beginning, a mark for each firing."""

    def hours(ms: float) -> float:
        return (ms - course.since_ms) / _HOUR_MS

    line = [Point(hours(course.at_ms(n)), most) for n, most in enumerate(course.most())]
    marks = [
        Mark(hours(at_ms), str(number) if len(firings) <= _MARKS else "")
        for number, at_ms in enumerate(firings, 1)
    ]
    drawn = curve(
        {"waiting": line},
        title=title,
        x_name=f"hours since {_day(course.since_ms)} UTC",
        y_name="episodes that wait",
        marks=marks,
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    return drawn.replace("<svg ", head, 1).replace("<title>", f"<style>{_STYLE}</style><title>", 1)


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
