"""Small plots as inline SVG: bars with intervals, a curve, a cloud of points over time. No dependency, no script."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

from honed.demo.statistics import Share

WIDTH: Final = 680
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 44


class Bar(NamedTuple):
    """One bar: its name, its height with interval, and its class in the style sheet."""

    name: str
    share: Share
    style: str


class Point(NamedTuple):
    """A point of a curve or cloud."""

    x: float
    y: float
    style: str = "before"


class Mark(NamedTuple):
    """A vertical line with a word."""

    x: float
    text: str


class _Axis(NamedTuple):
    """From values to pixels, and the values worth a label."""

    to_px: Callable[[float], float]
    ticks: Sequence[float]


def bar_chart(bars: Sequence[Bar], *, title: str) -> str:
    """Shares in percent, each with its 95 % interval."""
    y = _linear(0, 100, HEIGHT - _BOTTOM, _TOP, [0, 25, 50, 75, 100])
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(bars))
    parts = [_y_axis(y, "success, %", "{:g}")]
    for i, bar in enumerate(bars):
        middle = _LEFT + (i + 0.5) * slot
        parts.append(_bar(middle, min(40.0, slot / 3), bar, y))
        parts.append(_text(middle, HEIGHT - _BOTTOM + 18, bar.name))
        parts.append(_text(middle, HEIGHT - _BOTTOM + 34, str(bar.share), "note"))
    return _svg(title, parts)


def _bar(middle: float, half: float, bar: Bar, y: _Axis) -> str:
    top, low, high = (y.to_px(100 * v) for v in (bar.share.value, bar.share.low, bar.share.high))
    height = HEIGHT - _BOTTOM - top
    return (
        f'<rect class="{escape(bar.style)}" x="{middle - half:.1f}" y="{top:.1f}" '
        f'width="{2 * half:.1f}" height="{height:.1f}"/>'
        f'<path class="whisker" d="M{middle:.1f} {low:.1f}V{high:.1f}'
        f'M{middle - 8:.1f} {low:.1f}h16M{middle - 8:.1f} {high:.1f}h16"/>'
    )


def curve(
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_name: str,
    y_name: str,
    from_zero: bool = True,
    marks: Sequence[Mark] = (),
) -> str:
    """One line for each name, with vertical marks; the name is the style as well."""
    points = [point for line in lines.values() for point in line]
    x = _axis([p.x for p in points] + [m.x for m in marks], _LEFT, WIDTH - _RIGHT)
    y = _axis([p.y for p in points] + [0.0] * from_zero, HEIGHT - _BOTTOM, _TOP)
    parts = [_y_axis(y, y_name, "{:.4g}"), _x_axis(x, x_name)]
    for i, (name, line) in enumerate(lines.items()):
        path = "L".join(f"{x.to_px(p.x):.1f} {y.to_px(p.y):.1f}" for p in line)
        if path:
            parts.append(f'<path class="line {escape(name)}" d="M{path}"/>')
        parts.append(_text(WIDTH - 90, _TOP + 14 + 16 * i, name, f"key {name}"))
    parts += [drawn for mark in marks for drawn in _mark(mark, x)]
    return _svg(title, parts)


def scatter(
    points: Sequence[Point], *, title: str, x_name: str, y_name: str, marks: Sequence[Mark] = ()
) -> str:
    """A point for each value over time, on a logarithmic scale, with vertical marks."""
    x = _axis([p.x for p in points] + [m.x for m in marks], _LEFT, WIDTH - _RIGHT)
    y = _log_axis([p.y for p in points], HEIGHT - _BOTTOM, _TOP)
    parts = [_y_axis(y, y_name, "{:g}"), _x_axis(x, x_name)]
    parts += [
        f'<circle class="{escape(p.style)}" cx="{x.to_px(p.x):.1f}" cy="{y.to_px(p.y):.1f}" r="1.8"/>'
        for p in points
    ]
    parts += [drawn for mark in marks for drawn in _mark(mark, x)]
    return _svg(title, parts)


def _mark(mark: Mark, x: _Axis) -> Iterator[str]:
    at = x.to_px(mark.x)
    yield f'<path class="mark" d="M{at:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
    side, style = (4, "note start") if at < WIDTH / 2 else (-4, "note end")
    yield _text(at + side, _TOP + 10, mark.text, style)


def _svg(title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, style: str = "label") -> str:
    return f'<text class="{escape(style)}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _linear(low: float, high: float, start: float, end: float, ticks: Sequence[float]) -> _Axis:
    span = high - low or 1.0
    return _Axis(lambda value: start + (value - low) / span * (end - start), ticks)


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """A linear axis that ends at round numbers."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    step = _round_step((high - low) or abs(high) or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    ticks = [i * step for i in range(first, last + 1)]
    return _linear(ticks[0], ticks[-1], start, end, ticks)


def _round_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts the span into about five."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * n for n in (1, 2, 5, 10) if span / (power * n) <= 6)


def _log_axis(values: Sequence[float], start: float, end: float) -> _Axis:
    """A logarithmic axis over whole powers of ten; values must be above zero."""
    low = math.floor(math.log10(min(values, default=1.0)))
    high = max(math.ceil(math.log10(max(values, default=10.0))), low + 1)
    to_px = _linear(low, high, start, end, ()).to_px
    return _Axis(lambda value: to_px(math.log10(value)), [10.0**i for i in range(low, high + 1)])


def _y_axis(axis: _Axis, name: str, form: str) -> str:
    parts = []
    for value in axis.ticks:
        at = axis.to_px(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 6, at + 4, form.format(value), "note end"))
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="label" transform="translate(14 {middle:.1f}) rotate(-90)">{escape(name)}</text>'
    )
    return "".join(parts)


def _x_axis(axis: _Axis, name: str) -> str:
    labels = [
        _text(axis.to_px(value), HEIGHT - _BOTTOM + 16, f"{value:.4g}", "note middle")
        for value in axis.ticks
    ]
    return "".join(labels) + _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, name)
