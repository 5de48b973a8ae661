"""A candidate beside the version in service, each with its share of the tasks: promote it, hold it, roll it back?

What decides is the success of tasks, by a sequential test (`sequential`) that may be asked after every task. It
answers three ways: *roll back* where the candidate is worse, *promote* where it is better, and *hold* where the
schedule has ended without either: then a person decides. Not worse is not enough: candidates that change nothing are
held.

Beside it, whenever the evidence has doubled:

- **errors**: more requests failed, by 2 points or more, and by a test at 0.0003: roll back.
- **scores**: successes are told with scores of their own, and a task is worth 0.1 less in the mean, by 3.5 standard
  errors: roll back.
- **latency**: a typical task took half as long again, or more, and by 3.5 standard errors longer: roll back.
- **length and tools**: a typical answer is half as long or twice as long, or half or twice as many tools are called,
  and by three standard errors: a change of how work is done, and no harm by itself. It keeps the candidate from
  promotion.
- **verdicts**: of 10 points fewer of its tasks, or more, anybody has said how they ended, and by a test at 0.0013: then
  successes may be all that is told of one of the two. It keeps the candidate from promotion, too.

The schedule was chosen so that the tests find what they must (`benchmarks/canary.py`): the third look comes before 80
tasks of each and spends most of the budget, for harm of 30 points is to be seen there; the fifth comes before 400.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from honed.domain.canary import Family, Look, Looks
from honed.statistics.sequential import Schedule, Share, evidence, p_lower

WORSE: Final = Schedule(
    looks=(20, 40, 76, 140, 390, 1000), spent=(0.0005, 0.0015, 0.0255, 0.0265, 0.031, 0.032)
)
"""Error of rolling back by success: 3.2 %."""
BETTER: Final = Schedule(looks=(76, 140, 390, 1000), spent=(0.0005, 0.001, 0.002, 0.004))
"""Error of promotion: 0.4 %, none of it before there is enough to look at how the work is done."""
FIRST_LOOK: Final = 40
"""Tasks per arm, or requests, of what is looked at whenever it has doubled."""
ERROR_LEVEL: Final = 0.0003
ERROR_RISE: Final = 0.02
SLOWER: Final = 1.5
SLOWER_Z: Final = 3.5
HALF: Final = 0.5
SIGN_Z: Final = 3.0
POORER: Final = 0.1
TOLD_CHANGE: Final = 0.1
TOLD_LEVEL: Final = 0.0013
"""That of three standard errors, one-sided."""
MIN_TOOL_CALLS: Final = 0.5
"""Calls for each task: of fewer nothing vanishes."""

Decision = Literal["watch", "promote", "hold", "roll_back"]


class Sample(NamedTuple):
    """Values of tasks."""

    num: int = 0
    mean: float = 0.0
    variance: float = 0.0
    """Of one value."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """Mean and variance."""
        num = len(values)
        if num < 2:
            return cls(num, values[0] if values else 0.0)
        mean = math.fsum(values) / num
        return cls(num, mean, math.fsum((value - mean) ** 2 for value in values) / (num - 1))

    def above(self, other: "Sample") -> float:
        """By how many standard errors its mean is above the other one (Welch)."""
        difference = self.mean - other.mean
        if difference == 0 or self.num < 2 or other.num < 2:
            return 0.0
        error = math.sqrt(self.variance / self.num + other.variance / other.num)
        return difference / error if error else math.copysign(math.inf, difference)


class Arm(NamedTuple):
    """What one version has done since the canary began."""

    success: Share = Share(0, 0)
    """Tasks done, of those with a known outcome."""
    errors: Share = Share(0, 0)
    """Requests without a complete answer."""
    latency: Sample = Sample()
    """Logarithms of the seconds that the model took for a task."""
    length: Sample = Sample()
    """Logarithms of the characters of a task's last answer, and one."""
    tools: Sample = Sample()
    """Tools called for a task."""
    told: Share = Share(0, 0)
    """Tasks with a known outcome, of all."""
    scores: Sample = Sample()
    """What tasks with a known outcome were worth, 0..1; none where each is worth 0 or 1."""


class Ruling(NamedTuple):
    """What is to become of the candidate."""

    decision: Decision
    reason: str
    looks: Looks


def rule(live: Arm, candidate: Arm, looks: Looks, *, max_tasks: int, is_shadow: bool) -> Ruling:
    """What is to become of the candidate, by all there is; between two looks it is `watch`.

    Args:
        live: the version in service.
        candidate: the one that may take its place.
        looks: of the rulings before.
        max_tasks: tasks per arm of the last look at success, in shadow at how the work is done.
        is_shadow: nobody sees its answers, so there is no success to compare; it is never promoted.
    """
    watch = _Watch(live, candidate, dict(looks), max_tasks)
    harms = [*watch.errors(), *watch.worse(), *watch.harmful_work()]
    changes = watch.changes()
    if harms:
        return Ruling("roll_back", "; ".join(harms), watch.looks)
    if not is_shadow and (better := watch.better()):
        decision: Decision = "hold" if changes else "promote"
        return Ruling(decision, "; but ".join((better, *changes)), watch.looks)
    if next_look(watch.looks, max_tasks=max_tasks, is_shadow=is_shadow) is None:
        if is_shadow:
            seen = "no more errors and no longer waits than what serves"
        else:
            seen = (
                f"neither better nor worse: {candidate.success} tasks done against {live.success}"
            )
        return Ruling("hold", "; ".join((seen, *changes)), watch.looks)
    return Ruling("watch", "; ".join(changes), watch.looks)


def deciding(*, is_shadow: bool) -> Family:
    """What must be looked at for anything to be decided but harm."""
    return "work" if is_shadow else "worse"


def next_look(looks: Looks, *, max_tasks: int, is_shadow: bool) -> int | None:
    """From how many tasks per arm on what decides is looked at again; None after the last look."""
    if is_shadow:
        at = _doubled(looks, "work", max_tasks)
        return at if at <= max_tasks else None
    return WORSE.until(max_tasks).next_look(_taken(looks, "worse"))


def is_due(
    looks: Looks, *, known: int, tasks: int, requests: int, max_tasks: int, is_shadow: bool
) -> bool:
    """Whether there is anything to look at that was not looked at: a ruling before that is only `watch`.

    Args:
        looks: of the rulings before.
        known: tasks per arm with an outcome.
        tasks: tasks per arm.
        requests: requests per arm.
        max_tasks: as in `rule`.
        is_shadow: as in `rule`.
    """
    due = [
        _doubled(looks, "errors", max_tasks) <= requests,
        _doubled(looks, "work", max_tasks) <= tasks,
    ]
    if not is_shadow:
        for taken, schedule in ((_taken(looks, "worse"), WORSE), (_taken(looks, "better"), BETTER)):
            at = schedule.until(max_tasks).next_look(taken)
            due.append(at is not None and at <= known)
    return any(due)


class _Watch:
    """One ruling's comparisons; `looks` grows by those that are due."""

    def __init__(self, live: Arm, candidate: Arm, looks: Looks, max_tasks: int) -> None:
        self._live = live
        self._candidate = candidate
        self._max_tasks = max_tasks
        self.looks = looks

    def worse(self) -> list[str]:
        """That the candidate does fewer tasks, once that is seen."""
        told = self._lower("worse", WORSE, self._candidate.success, self._live.success)
        return [f"fewer tasks done: {told}"] if told else []

    def better(self) -> str | None:
        """That it does more."""
        told = self._lower("better", BETTER, self._live.success, self._candidate.success)
        return f"more tasks done: {told}" if told else None

    def errors(self) -> list[str]:
        """That more of its requests fail."""
        one, other = self._candidate.errors, self._live.errors
        num = evidence(one, other)
        if num < _doubled(self.looks, "errors", self._max_tasks):
            return []
        p = p_lower(Share(one.num - one.hits, one.num), Share(other.num - other.hits, other.num))
        self._add("errors", Look(num, p, ERROR_LEVEL))
        if p > ERROR_LEVEL or one.value - other.value < ERROR_RISE:
            return []
        return [f"more requests failed: {one} against {other}, p {p:.2g}"]

    def harmful_work(self) -> list[str]:
        """That its tasks are worth less, or take longer."""
        num = evidence(
            *(Share(0, max(arm.length.num, arm.tools.num)) for arm in (self._live, self._candidate))
        )
        if num < _doubled(self.looks, "work", self._max_tasks):
            return []
        self._add("work", Look(num))
        return [*self._poorer(), *self._slower()]

    def _poorer(self) -> list[str]:
        live, candidate = self._live.scores, self._candidate.scores
        if live.mean - candidate.mean < POORER or live.above(candidate) < SLOWER_Z:
            return []
        return [f"lower scores: {candidate.mean:.2f} for a task against {live.mean:.2f}"]

    def _slower(self) -> list[str]:
        live, candidate = self._live.latency, self._candidate.latency
        is_long = candidate.mean - live.mean >= math.log(SLOWER)
        if not is_long or candidate.above(live) < SLOWER_Z:
            return []
        waits = f"{math.exp(candidate.mean):.3g} s against {math.exp(live.mean):.3g} s"
        return [f"slower: the model takes {waits} for a typical task"]

    def changes(self) -> tuple[str, ...]:
        """How the work is done otherwise, which is no harm by itself; after the first look at it."""
        if not self.looks.get("work"):
            return ()
        live, candidate = self._live, self._candidate
        found = []
        change = candidate.length.mean - live.length.mean
        if abs(change) >= -math.log(HALF) and abs(candidate.length.above(live.length)) >= SIGN_Z:
            one, other = math.expm1(candidate.length.mean), math.expm1(live.length.mean)
            how = "longer" if change > 0 else "shorter"
            found.append(f"{how} answers: {one:.3g} characters against {other:.3g}")
        fewer, more = sorted((candidate.tools.mean, live.tools.mean))
        is_other = more >= MIN_TOOL_CALLS and fewer <= HALF * more
        if is_other and abs(candidate.tools.above(live.tools)) >= SIGN_Z:
            how = "more" if candidate.tools.mean == more else "fewer"
            told = f"{candidate.tools.mean:.3g} for a task against {live.tools.mean:.3g}"
            found.append(f"{how} tool calls: {told}")
        return (*found, *self._otherwise_told())

    def _otherwise_told(self) -> list[str]:
        fewer, more = sorted((self._candidate.told, self._live.told), key=lambda each: each.value)
        if not fewer.num or more.value - fewer.value < TOLD_CHANGE:
            return []
        if p_lower(fewer, more) > TOLD_LEVEL:
            return []
        how = "fewer" if fewer is self._candidate.told else "more"
        return [f"{how} verdicts: of {self._candidate.told} tasks against {self._live.told}"]

    def _lower(self, family: Family, schedule: Schedule, one: Share, other: Share) -> str | None:
        """Look whether `one` is lower, if it is time; what was seen, if it is."""
        schedule = schedule.until(self._max_tasks)
        taken, num = _taken(self.looks, family), evidence(one, other)
        at = schedule.next_look(taken)
        if at is None or num < at:
            return None
        p, level = p_lower(one, other), schedule.level([*taken, num])
        self._add(family, Look(num, p, level))
        if p > level:
            return None
        shares = f"{self._candidate.success} against {self._live.success}"
        return f"{shares}, p {p:.2g} where {level:.2g} is needed at this look"

    def _add(self, family: Family, look: Look) -> None:
        self.looks[family] = (*self.looks.get(family, ()), look)


def _taken(looks: Looks, family: Family) -> list[int]:
    return [look.num for look in looks.get(family, ())]


def _doubled(looks: Looks, family: Family, max_tasks: int) -> int:
    """From how many on it is looked again: twice as many, but not beyond the end."""
    taken = _taken(looks, family)
    due = 2 * taken[-1] if taken else FIRST_LOOK
    return min(due, max_tasks) if not taken or taken[-1] < max_tasks else due
