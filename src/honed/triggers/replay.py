"""A rule tried on what happened: when it would have fired, and on how many episodes.

A condition is judged when something comes in that may change its verdict, and at the instants at which time alone
does (`next_change`); not at each event. `_patience` says how many outcomes leave it as it is whatever they are, so
that a million episodes need few looks at long windows. Each firing counts as a training that reads what there is, takes
a given time and is done; what comes in meanwhile is new to the next, and nothing is judged until it ends.

Other than in a daemon, a verdict is looked at the moment it changes, and not at the next `check_interval`; and no
run fails.
"""

import functools
import operator
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final, NamedTuple

from honed.domain.outcome import is_success
from honed.triggers.conditions import Count, Quality, Quiet
from honed.triggers.context import TriggerContext
from honed.triggers.drift import Drift
from honed.triggers.forecast import leaves
from honed.triggers.past import Made, Past, PastEvent
from honed.triggers.trigger import AllOf, AnyOf, Not, TrainTrigger, Verdict

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class Firing(NamedTuple):
    """The rule fires, and a training begins."""

    at_ms: int
    num_new: int
    """Episodes that no training had seen."""
    num_changed: int
    """Trained ones whose outcome is another by then."""
    success_rate: float | None
    """Of the new ones with a known outcome."""
    verdict: Verdict


class Replay:
    """A rule on its way through a history; give it the events in order of time, then the end."""

    def __init__(self, trigger: TrainTrigger, *, started_at_ms: int, run_time: timedelta) -> None:
        """`started_at_ms`: from when on intervals run; `run_time`: how long a training takes."""
        self._rule = trigger & Count(1)  # nothing trains when nothing is new
        self._trigger = trigger
        self._leaves = tuple(dict.fromkeys(leaves(self._rule)))
        self._counts = [leaf.count for leaf in self._leaves if isinstance(leaf, Count)]
        self._has_quiet = any(isinstance(leaf, Quiet) for leaf in self._leaves)
        self._past = Past(started_at_ms=started_at_ms)
        self._run_time = run_time
        self._now_ms = started_at_ms
        self._busy_until_ms = started_at_ms
        self._next_ms: int | None = started_at_ms
        """When time alone may change the verdict."""
        self._is_due = True
        self._truth: dict[TrainTrigger, bool] = {}
        """What each condition said when it was last judged."""
        self._patience: dict[TrainTrigger, int] = {}
        """Outcomes after which at the earliest a condition on outcomes may say something else."""
        self.num_looks = 0
        """Judgements that looked at outcomes."""
        self.num_episodes = 0

    @property
    def waiting(self) -> int:
        """Episodes that wait to be learned from, now."""
        return self._past.num_new + self._past.num_changed

    def take(self, event: PastEvent) -> Iterator[Firing]:
        """Go on until the event and let it happen; what fires on the way there.

        An event that seems older than the one before happens with it: the clock was set back.
        """
        if event.at_ms > self._now_ms:
            yield from self._look()
            yield from self._pass(event.at_ms)
            self._now_ms = event.at_ms
        before = self.waiting
        is_in_order = self._past.apply(event)
        after = self.waiting
        self._is_due |= self._has_quiet or any((before < n) != (after < n) for n in self._counts)
        if isinstance(event, Made):
            self.num_episodes += 1
            return
        for leaf in self._patience:
            left = self._patience[leaf] - 1
            self._patience[leaf] = 0 if isinstance(leaf, Drift) and not is_in_order else left
            self._is_due |= self._patience[leaf] <= 0

    def end(self, at_ms: int) -> Iterator[Firing]:
        """Go on until the end; what fires on the way there, and at it."""
        yield from self._look()
        yield from self._pass(at_ms + 1)

    def _look(self) -> Iterator[Firing]:
        is_time = self._next_ms is not None and self._next_ms <= self._now_ms
        if self._now_ms >= self._busy_until_ms and (self._is_due or is_time):
            yield from self._judge(self._now_ms)

    def _pass(self, until_ms: int) -> Iterator[Firing]:
        while self._next_ms is not None and self._next_ms < until_ms:
            yield from self._judge(self._next_ms)

    def _judge(self, at_ms: int) -> Iterator[Firing]:
        now = _EPOCH + at_ms * _MS
        stale = [leaf for leaf in self._leaves if self._patience.get(leaf, 0) <= 0]
        needs = functools.reduce(operator.or_, (leaf.needs for leaf in stale))
        facts = self._past.facts(now, needs)
        self._is_due = False
        for leaf in stale:
            self._truth[leaf] = leaf.should_train(facts)
            if isinstance(leaf, (Quality, Drift)):
                self.num_looks += 1
                self._patience[leaf] = _patience(leaf, facts, self._past.left_of_ten)
        change = self._rule.next_change(facts)
        is_ahead = change is not None and change > now
        self._next_ms = ceil((change - _EPOCH) / _MS) if change and is_ahead else None
        if _holds(self._rule, self._truth):
            yield self._fire(at_ms, now)

    def _fire(self, at_ms: int, now: datetime) -> Firing:
        past = self._past
        verdict = self._trigger.judge(past.facts(now, self._trigger.needs))
        firing = Firing(at_ms, past.num_new, past.num_changed, past.success_rate(), verdict)
        past.train(now, now + self._run_time)
        self._patience.clear()
        self._busy_until_ms = at_ms + ceil(self._run_time / _MS)
        self._next_ms = max(at_ms + 1, self._busy_until_ms)
        return firing


def _holds(rule: TrainTrigger, truth: Mapping[TrainTrigger, bool]) -> bool:
    match rule:
        case AnyOf(parts):
            return any(_holds(part, truth) for part in parts)
        case AllOf(parts):
            return all(_holds(part, truth) for part in parts)
        case Not(part):
            return not _holds(part, truth)
    return truth[rule]


def _patience(leaf: Quality | Drift, facts: TriggerContext, left_of_ten: int) -> int:
    """How many more outcomes leave the verdict as it is; those that `Past.apply` finds out of order apart."""
    if isinstance(leaf, Drift):
        return left_of_ten
    recent = facts.recent[: leaf.window]
    if len(recent) < leaf.min_samples:
        return leaf.min_samples - len(recent)
    # each outcome is one more, one less, or another one: the rate is at least (successes - n) / (len + n)
    too_many = sum(map(is_success, recent)) - leaf.below * len(recent)
    return max(1, ceil(too_many / (1 + leaf.below) - 1e-9))
