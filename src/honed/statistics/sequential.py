"""Two shares compared while their samples grow: looked at as often as one likes, wrong as rarely as promised.

A test that is repeated after every task rejects what is true sooner or later. Here the error is a budget that is spent
over few *looks*, each when there is so much more evidence (`Schedule`); between them nothing is decided, so it may be
asked at any time. What a look may spend follows from how much evidence there is then (Lan and DeMets 1983, *Discrete
sequential boundaries for clinical trials*), and what it must find to spend just that from all looks before it, by
recursive integration (Armitage, McPherson and Rowe 1969): under "no difference" the looks are those of a Brownian
motion. Looks may so come late and at any numbers, which a daemon that was away needs.

Evidence is counted in tasks per arm, as if both had as many: the harmonic mean of the two numbers, which is what the
variance of a difference goes by. The p-value is Fisher's with half of the chance of what was seen (mid-p, Lancaster
1961): near the normal one where there are many, and honest where nearly all succeed.
"""

import functools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

_POINTS: Final = 240
"""Of the grid on which densities are integrated: levels to three digits."""
_REACH: Final = 6.0
"""Standard deviations below which no density is left."""
_LEAST_GROWTH: Final = 1.25
"""Of the evidence between two looks: closer ones cost more than they see."""


class Share(NamedTuple):
    """How many of how many."""

    hits: int
    num: int

    @property
    def value(self) -> float:
        """0..1; 0 of none."""
        return self.hits / self.num if self.num else 0.0

    def __str__(self) -> str:
        return f"{self.value:.1%} of {self.num}"


class Schedule(NamedTuple):
    """When it is looked, and how much error may be spent by then."""

    looks: tuple[int, ...]
    """Tasks per arm, rising; after the last one nothing is decided."""
    spent: tuple[float, ...]
    """Error by then, of each look; the last is the budget."""

    def until(self, num: int) -> "Schedule":
        """The same with a last look at `num`, which spends what is left."""
        kept = [at for at, look in enumerate(self.looks) if look < num]
        looks = tuple(self.looks[at] for at in kept)
        return Schedule((*looks, num), (*(self.spent[at] for at in kept), self.spent[-1]))

    def next_look(self, taken: Sequence[int]) -> int | None:
        """From how many tasks per arm on it is looked again; None after the last look."""
        last = taken[-1] if taken else 0
        if last >= self.looks[-1]:
            return None
        planned = next(look for look in self.looks if look > last)
        return min(self.looks[-1], max(planned, math.ceil(_LEAST_GROWTH * last)))

    def level(self, taken: Sequence[int]) -> float:
        """What the p-value of the last of these looks must not exceed."""
        return _levels(tuple(taken), tuple(self._spent_by(num) for num in taken))[-1]

    def _spent_by(self, num: int) -> float:
        before, spent = 0, 0.0
        for look, spent_then in zip(self.looks, self.spent, strict=True):
            if num < look:
                return spent + (spent_then - spent) * (num - before) / (look - before)
            before, spent = look, spent_then
        return spent


def evidence(one: Share, other: Share) -> int:
    """Tasks per arm, as if both had as many: the harmonic mean, rounded down."""
    return 2 * one.num * other.num // (one.num + other.num) if one.num and other.num else 0


def p_lower(one: Share, other: Share) -> float:
    """One-sided mid-p that the share of `one` is not lower than that of `other`; small where it is lower."""
    hits = one.hits + other.hits
    chance = math.exp(
        _log_choose(one.num, one.hits)
        + _log_choose(other.num, other.hits)
        - _log_choose(one.num + other.num, hits)
    )
    p = chance / 2
    for fewer in range(one.hits, max(0, hits - other.num), -1):
        chance *= fewer * (other.num - hits + fewer)
        chance /= (one.num - fewer + 1) * (hits - fewer + 1)
        p += chance
        if chance < 1e-12 * p:
            break
    return min(1.0, p)


def _log_choose(num: int, hits: int) -> float:
    return math.lgamma(num + 1) - math.lgamma(hits + 1) - math.lgamma(num - hits + 1)


@functools.lru_cache(maxsize=4096)
def _levels(looks: tuple[int, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """The level of each look by which the error by then is what is spent.

    `paths` is the density of the sums that have crossed no boundary before, at points of equal distance.
    """
    before = _levels(looks[:-1], spent[:-1]) if looks[1:] else ()
    to_spend = spent[-1] - (spent[-2] if spent[1:] else 0.0)
    paths, passed = _paths(looks[:-1], before), (looks[-2] if looks[1:] else 0)
    spread = math.sqrt(looks[-1] - passed)

    def crosses(critical: float) -> float:
        bound = critical * math.sqrt(looks[-1])
        return math.fsum(weight * _upper((bound - at) / spread) for at, weight in paths)

    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if crosses(middle) > to_spend else (low, middle)
    return (*before, _upper(high))


@functools.lru_cache(maxsize=4096)
def _paths(looks: tuple[int, ...], levels: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Where sums are that crossed nothing, and with which probability, after these looks."""
    if not looks:
        return ((0.0, 1.0),)
    before = _paths(looks[:-1], levels[:-1])
    variance = looks[-1] - (looks[-2] if looks[1:] else 0)
    scale = math.sqrt(looks[-1])
    bottom, top = -_REACH * scale, _critical(levels[-1]) * scale
    step = (top - bottom) / _POINTS
    factor = step / math.sqrt(2 * math.pi * variance)
    found = []
    for number in range(_POINTS):
        at = bottom + (number + 0.5) * step
        density = math.fsum(
            weight * math.exp(-((at - was) ** 2) / (2 * variance)) for was, weight in before
        )
        found.append((at, factor * density))
    return tuple(found)


def _upper(z: float) -> float:
    """Chance of a standard normal value above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def _critical(level: float) -> float:
    """The inverse of `_upper`, for levels below one half."""
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _upper(middle) > level else (low, middle)
    return high
