"""Means of paired scores with their intervals, and what they could have shown.

Episodes of one group are no independent witnesses, so the error of a mean is taken from what each group adds to it
(linearised, the sandwich of Liang and Zeger 1986), with Student's quantile for the number of groups. benchmarks/gate.py
measures how often the intervals hold the truth.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Final

from honed.domain.trained_model import Interval
from honed.gate.chance import Scored

POWER: Final = 0.8
_NORMAL: Final = NormalDist()


def mean_gain(episodes: Sequence[Scored]) -> Interval | None:
    """The mean gain; None of fewer than two groups, which tell nothing of its error."""
    if not episodes:
        return None
    mean = math.fsum(e.gain for e in episodes) / len(episodes)
    parts: dict[str, float] = {}
    for episode in episodes:
        part = (episode.gain - mean) / len(episodes)
        parts[episode.group] = parts.get(episode.group, 0.0) + part
    return _interval(mean, parts.values(), len(parts))


def contrast(episodes: Sequence[Scored]) -> Interval | None:
    """Mean gain on successes minus mean gain on failures; None unless each are of two groups or more."""
    successes = [e for e in episodes if e.is_success]
    failures = [e for e in episodes if not e.is_success]
    if not successes or not failures:
        return None
    means = {
        True: math.fsum(e.gain for e in successes) / len(successes),
        False: math.fsum(e.gain for e in failures) / len(failures),
    }
    shares = {True: 1 / len(successes), False: -1 / len(failures)}
    parts: dict[str, float] = {}
    for episode in episodes:
        side = episode.is_success
        part = (episode.gain - means[side]) * shares[side]
        parts[episode.group] = parts.get(episode.group, 0.0) + part
    num_groups = min(len({e.group for e in side}) for side in (successes, failures))
    return _interval(means[True] - means[False], parts.values(), num_groups)


def detectable(interval: Interval, level: float) -> float:
    """The true value that is told from zero at this level with `POWER`, with the error of this interval."""
    error = (interval.high - interval.low) / (2 * _NORMAL.inv_cdf(0.975))
    return (_NORMAL.inv_cdf(1 - level) + _NORMAL.inv_cdf(POWER)) * error


def _interval(value: float, parts: Iterable[float], num_groups: int) -> Interval | None:
    if num_groups < 2:
        return None
    error = math.sqrt(math.fsum(part * part for part in parts) * num_groups / (num_groups - 1))
    reach = _students(num_groups - 1) * error
    return Interval(value=value, low=value - reach, high=value + reach)


def _students(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by its expansion around the normal's (Abramowitz and Stegun 26.7.5)."""
    z = _NORMAL.inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
