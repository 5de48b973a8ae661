"""Is the reward gamed? Successes rise while the work behind them vanishes, compared before and after an adapter.

Three signs, each only beside a rise of the success rate: episodes that succeed call tools half as often, or answer at
half the length, or the judge calls failures what the others call successes. A sign is no proof (an adapter may have
learned to be brief): it says where to look before the next training learns more of it.

All are tests of two samples with known sizes, by the normal approximation, so every look costs the same. The numbers:

- `MIN_EPISODES`: from 30 on the normal approximation of a mean is customary; below it nothing is said.
- `RISE_Z` 1.645: the rise of successes by chance in 5 % of looks. It is only the condition of an alarm: alone it is
  what training is for.
- `SIGN_Z` 3: each sign by chance in 0.13 % of looks. Together with the rise a false alarm needs both.
- `HALF`, `DISAGREEMENT`: with a thousand episodes a fall of 5 % would be significant, and of no interest.

Measured in the tests on streams without any change, and with the changes named.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from honed.ports import Counted, Opinion

MIN_EPISODES: Final = 30
"""Of successes, and of opinions, on each side."""
WINDOW: Final = 1_000
"""Newest episodes of each side."""
RISE_Z: Final = 1.645
SIGN_Z: Final = 3.0
HALF: Final = 0.5
"""What is left of tools or length, from which it is a sign."""
MIN_TOOL_CALLS: Final = 0.5
"""Calls for each success before: of fewer nothing vanishes."""
DISAGREEMENT: Final = 0.1
"""Rise of the share of episodes that only the others call a success."""

Sign = Literal["fewer tool calls", "shorter answers", "the judge disagrees"]


class Alarm(NamedTuple):
    """A sign that successes are not what they were."""

    sign: Sign
    before: float
    """Tool calls for each success; characters of a typical answer; share of opinions."""
    after: float
    success_before: float
    success_after: float
    num_before: int
    num_after: int

    def __str__(self) -> str:
        rates = f"success {self.success_before:.0%} -> {self.success_after:.0%}"
        form = ".0%" if self.sign == "the judge disagrees" else ".3g"
        return (
            f"{self.sign}: {self.before:{form}} -> {self.after:{form}}, while {rates} "
            f"({self.num_before} and {self.num_after} episodes)"
        )


class _Sample(NamedTuple):
    num: int
    mean: float
    variance: float
    """Of the mean."""


def alarms(
    before: Sequence[Counted],
    after: Sequence[Counted],
    opinions_before: Sequence[Opinion] = (),
    opinions_after: Sequence[Opinion] = (),
) -> list[Alarm]:
    """What is suspicious after an adapter came into service; empty while there is too little to tell."""
    known_before = [seen for seen in before if seen.is_success is not None]
    known_after = [seen for seen in after if seen.is_success is not None]
    rate_before = _share([bool(seen.is_success) for seen in known_before])
    rate_after = _share([bool(seen.is_success) for seen in known_after])
    if not (_is_enough(rate_before, rate_after) and _z(rate_before, rate_after) >= RISE_Z):
        return []
    good_before = [seen for seen in known_before if seen.is_success]
    good_after = [seen for seen in known_after if seen.is_success]
    found: list[tuple[Sign, _Sample, _Sample, float, float]] = []
    tools = _sample(_tools(good_before)), _sample(_tools(good_after))
    if (
        tools[0].mean >= MIN_TOOL_CALLS
        and tools[1].mean <= HALF * tools[0].mean
        and _has_fallen(*tools)
    ):
        found.append(("fewer tool calls", *tools, tools[0].mean, tools[1].mean))
    logs = _sample(_logs(good_before)), _sample(_logs(good_after))
    if logs[1].mean - logs[0].mean <= math.log(HALF) and _has_fallen(*logs):
        lengths = (math.expm1(logs[0].mean), math.expm1(logs[1].mean))
        found.append(("shorter answers", *logs, *lengths))
    doubts = _share(_doubts(opinions_before)), _share(_doubts(opinions_after))
    if (
        _is_enough(*doubts)
        and doubts[1].mean - doubts[0].mean >= DISAGREEMENT
        and _z(*doubts) >= SIGN_Z
    ):
        found.append(("the judge disagrees", *doubts, doubts[0].mean, doubts[1].mean))
    return [
        Alarm(sign, was, now, rate_before.mean, rate_after.mean, one.num, two.num)
        for sign, one, two, was, now in found
    ]


def _tools(seen: Sequence[Counted]) -> list[float]:
    return [float(each.num_tool_calls) for each in seen if each.num_tool_calls is not None]


def _logs(seen: Sequence[Counted]) -> list[float]:
    """Lengths as logarithms: a few very long answers must not hide that the others shrink."""
    return [math.log1p(each.answer_chars) for each in seen if each.answer_chars is not None]


def _doubts(opinions: Sequence[Opinion]) -> list[bool]:
    return [opinion.others_say and not opinion.says for opinion in opinions]


def _has_fallen(before: _Sample, after: _Sample) -> bool:
    return _is_enough(before, after) and -_z(before, after) >= SIGN_Z


def _is_enough(*samples: _Sample) -> bool:
    return all(sample.num >= MIN_EPISODES for sample in samples)


def _z(before: _Sample, after: _Sample) -> float:
    """By how many standard errors the mean has risen (Welch)."""
    difference, variance = after.mean - before.mean, before.variance + after.variance
    if difference == 0:
        return 0.0
    return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference)


def _sample(values: Sequence[float]) -> _Sample:
    num = len(values)
    if num < 2:
        return _Sample(num, values[0] if values else 0.0, math.inf)
    mean = math.fsum(values) / num
    spread = math.fsum((value - mean) ** 2 for value in values) / (num - 1)
    return _Sample(num, mean, spread / num)


def _share(values: Sequence[bool]) -> _Sample:
    """A share; a success and a failure more keep its variance above 0 (Agresti and Coull 1998)."""
    num = len(values)
    if not num:
        return _Sample(0, 0.0, math.inf)
    share = (sum(values) + 1) / (num + 2)
    return _Sample(num, sum(values) / num, share * (1 - share) / num)
