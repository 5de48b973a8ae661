"""The demo's figures: shares with Wilson intervals, and quantiles."""

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

Z_95: Final = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class Share(Struct, frozen=True):
    """Hits out of a total, 0..1, with the 95 % Wilson interval."""

    value: float
    low: float
    high: float
    hits: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(hits: int, total: int) -> Share:
    """A share with its interval; of nothing, everything is possible.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference
    (JASA 22, 1927).
    """
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} hits of {total}: expected 0 <= hits <= total")
    if total == 0:
        return Share(0.0, 0.0, 1.0, 0, 0)
    value, z2 = hits / total, Z_95 * Z_95
    centre = (value + z2 / (2 * total)) / (1 + z2 / total)
    spread = math.sqrt(value * (1 - value) / total + z2 / (4 * total * total))
    half = Z_95 * spread / (1 + z2 / total)
    # At 0 and at all of them, rounding must not leave the interval without its own value.
    low = 0.0 if hits == 0 else centre - half
    return Share(value, low, 1.0 if hits == total else centre + half, hits, total)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; nan of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
