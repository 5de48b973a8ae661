"""Permutation tests and bootstrap intervals over groups; plain Python, the same for the same seed.

Episodes of one group (trials of one task) are no independent witnesses: a task that always fails
has a gain of its own. So whole groups are exchanged and resampled, never single episodes across
groups.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from honed.domain.trained_model import Interval

_TIE: Final = 1e-12
"""Relative; sums of the same numbers in another order differ by less and count as equal."""


class Scored(NamedTuple):
    """One held-out episode: how much likelier the candidate finds it, and how it ended."""

    group: str
    is_success: bool
    gain: float
    """Nats per assistant token."""


class _Group(NamedTuple):
    gains: tuple[float, ...]
    num_successes: int
    gain_on_successes: float
    """Sum, not mean."""
    gain_on_failures: float


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def contrast(episodes: Sequence[Scored]) -> float:
    """Mean gain on successes minus mean gain on failures."""
    return mean(e.gain for e in episodes if e.is_success) - mean(
        e.gain for e in episodes if not e.is_success
    )


def contrast_p_value(episodes: Sequence[Scored], *, permutations: int, seed: int) -> float:
    """One-sided p-value of the contrast if outcomes had nothing to do with gains.

    Outcomes are exchanged between groups of equal size and shuffled inside each group. The number
    of successes stays the same, so the sum of their gains orders permutations as the contrast does.
    """
    rng = random.Random(seed)
    by_size: dict[int, list[_Group]] = {}
    for group in _groups(episodes):
        by_size.setdefault(len(group.gains), []).append(group)
    pools = [_singles(groups) if size == 1 else _blocks(groups) for size, groups in by_size.items()]
    observed = math.fsum(e.gain for e in episodes if e.is_success)
    bar = observed - _TIE * math.fsum(abs(e.gain) for e in episodes)
    hits = sum(sum(draw(rng) for draw in pools) >= bar for _ in range(permutations))
    return (hits + 1) / (permutations + 1)


def gain_p_value(episodes: Sequence[Scored], *, permutations: int, seed: int) -> float:
    """One-sided p-value of the mean gain if it were as often a loss, by signs of whole groups."""
    rng = random.Random(seed)
    sums = [math.fsum(group.gains) for group in _groups(episodes)]
    total = math.fsum(sums)
    bar = total - _TIE * math.fsum(map(abs, sums))
    hits = 0
    for _ in range(permutations):
        kept = sum(itertools.compress(sums, rng.choices((False, True), k=len(sums))))
        hits += 2 * kept - total >= bar
    return (hits + 1) / (permutations + 1)


class Estimates(NamedTuple):
    """Mean gains with 95 % percentile intervals; None where there is nothing to average."""

    gain_on_successes: Interval | None
    gain_on_failures: Interval | None
    contrast: Interval | None


def estimate(episodes: Sequence[Scored], *, resamples: int, seed: int) -> Estimates:
    """Means and their intervals, by resampling groups with replacement."""
    rng = random.Random(seed)
    groups = _groups(episodes)
    successes: list[float] = []
    failures: list[float] = []
    contrasts: list[float] = []
    for _ in range(resamples):
        drawn = rng.choices(groups, k=len(groups))
        num_successes = sum(group.num_successes for group in drawn)
        num_failures = sum(len(group.gains) for group in drawn) - num_successes
        on_successes = sum(group.gain_on_successes for group in drawn)
        on_failures = sum(group.gain_on_failures for group in drawn)
        if num_successes:
            successes.append(on_successes / num_successes)
        if num_failures:
            failures.append(on_failures / num_failures)
        if num_successes and num_failures:
            contrasts.append(on_successes / num_successes - on_failures / num_failures)
    return Estimates(
        _interval(mean(e.gain for e in episodes if e.is_success), successes),
        _interval(mean(e.gain for e in episodes if not e.is_success), failures),
        _interval(contrast(episodes), contrasts),
    )


def _groups(episodes: Sequence[Scored]) -> list[_Group]:
    members: dict[str, list[Scored]] = {}
    for episode in episodes:
        members.setdefault(episode.group, []).append(episode)
    return [
        _Group(
            tuple(e.gain for e in group),
            sum(e.is_success for e in group),
            math.fsum(e.gain for e in group if e.is_success),
            math.fsum(e.gain for e in group if not e.is_success),
        )
        for group in members.values()
    ]


_Draw = Callable[[random.Random], float]
"""The sum of the gains that a random assignment of outcomes calls successes."""


def _singles(groups: Sequence[_Group]) -> _Draw:
    """Groups of one episode: any of them may be the successes."""
    gains = [group.gains[0] for group in groups]
    num_successes = sum(group.num_successes for group in groups)
    return lambda rng: sum(rng.sample(gains, num_successes))


def _blocks(groups: Sequence[_Group]) -> _Draw:
    """Groups of several: each takes over another one's number of successes, at random places."""
    counts = [group.num_successes for group in groups]

    def draw(rng: random.Random) -> float:
        total = 0.0
        for group, count in zip(groups, rng.sample(counts, len(counts)), strict=True):
            if count:
                total += sum(rng.sample(group.gains, count))
        return total

    return draw


def _interval(value: float, resampled: list[float]) -> Interval | None:
    if math.isnan(value) or not resampled:
        return None
    resampled.sort()
    return Interval(value=value, low=_quantile(resampled, 0.025), high=_quantile(resampled, 0.975))


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
