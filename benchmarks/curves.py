"""Curves over rounds, several panels one under the other, as SVG without script."""

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

WIDTH: Final = 720
_PANEL: Final = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 16, 30, 34
_STYLES: Final = (
    ("#1b6ca8", ""),
    ("#c2571a", "6 3"),
    ("#5a5a5a", "2 3"),
    ("#2a8a4a", "8 2 2 2"),
)
"""Colour and dashes of each curve: told apart without colour too."""


class Curve(NamedTuple):
    """Values of one way, one for each round."""

    name: str
    values: Sequence[float]


def plot(panels: Sequence[tuple[str, float | None, Sequence[Curve]]], *, x: str) -> str:
    """Panels of a title, a limit (a line across) or None, and curves; the x axis counts from 1."""
    height = len(panels) * _PANEL + 24 * len(panels[0][2]) + 8
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="sans-serif" font-size="12" fill="#222">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, (title, limit, curves) in enumerate(panels):
        parts += _panel(title, limit, curves, number * _PANEL, x)
    for number, curve in enumerate(panels[0][2]):
        y = len(panels) * _PANEL + 24 * number + 8
        colour, dashes = _STYLES[number % len(_STYLES)]
        parts.append(_line([(_LEFT, y), (_LEFT + 40, y)], colour, dashes))
        parts.append(f'<text x="{_LEFT + 50}" y="{y + 4}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, limit: float | None, curves: Sequence[Curve], top: int, x: str) -> list[str]:
    num = max(len(curve.values) for curve in curves)
    most = max([*(v for curve in curves for v in curve.values), limit or 0.0]) * 1.05 or 1.0
    low, high = top + _PANEL - _BOTTOM, top + _TOP

    def at(i: int, value: float) -> tuple[float, float]:
        across = (WIDTH - _LEFT - _RIGHT) * i / max(1, num - 1)
        return round(_LEFT + across, 1), round(low - (low - high) * value / most, 1)

    parts = [f'<text x="{_LEFT}" y="{top + 18}" font-weight="bold">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        value = most / 1.05 * share
        _, y = at(0, value)
        parts.append(_line([(_LEFT, y), (WIDTH - _RIGHT, y)], "#ddd", ""))
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{value:.2g}</text>')
    parts += [
        f'<text x="{at(i, 0)[0]}" y="{low + 16}" text-anchor="middle">{i + 1}</text>'
        for i in range(num)
    ]
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{low + 30}" text-anchor="end">{x}</text>')
    if limit is not None:
        _, y = at(0, limit)
        parts.append(_line([(_LEFT, y), (WIDTH - _RIGHT, y)], "#b00020", "1 3"))
        parts.append(
            f'<text x="{WIDTH - _RIGHT}" y="{y - 4}" text-anchor="end" fill="#b00020">budget</text>'
        )
    for number, curve in enumerate(curves):
        colour, dashes = _STYLES[number % len(_STYLES)]
        parts.append(_line([at(i, value) for i, value in enumerate(curve.values)], colour, dashes))
    return parts


def _line(points: Sequence[tuple[float, float]], colour: str, dashes: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>'
