"""The conditions that rules are made of; each is one sentence about the facts."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from honed.domain.outcome import is_success
from honed.triggers.context import Needs, TriggerContext
from honed.triggers.duration import format_duration, whole_seconds
from honed.triggers.trigger import TrainTrigger, Verdict

WINDOW_MAX: Final = 100_000
"""Outcomes that a rule may look at; all of them are read each time it is judged."""
COUNT_MAX: Final = 1_000_000_000
"""The largest number in a rule: a billion episodes, more than any store has."""
SPAN_MAX: Final = timedelta(days=36_500)
"""The longest span of time in a rule: added to a date, it must lead to one."""


@dataclass(frozen=True, slots=True)
class Count(TrainTrigger):
    """Fires when at least `count` episodes wait to be learned from: new, or with another outcome since."""

    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the waiting episodes with `count`."""
        changed = f", {context.changed_count} of them changed" if context.changed_count else ""
        detail = f"{context.count} of {self.count} episodes{changed}"
        return Verdict(context.count >= self.count, self, detail)

    def __str__(self) -> str:
        return f"count({self.count})"


@dataclass(frozen=True, slots=True)
class Every(TrainTrigger):
    """Fires when the last training is at least `interval` ago: an age, not a tick.

    Before the first training the age runs from the first start of the scenario, so that a restart
    does not reset it.
    """

    interval: timedelta

    def __post_init__(self) -> None:
        check_span("an interval", self.interval)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the age of the last training with `interval`."""
        since = context.last_train_at or context.first_started_at
        age = max(context.now - since, timedelta())
        event = "first start" if context.last_train_at is None else "last training"
        shown = format_duration(whole_seconds(age))
        return Verdict(age >= self.interval, self, f"{shown} since the {event}")

    def next_change(self, context: TriggerContext) -> datetime | None:
        """The end of the interval."""
        return (context.last_train_at or context.first_started_at) + self.interval

    def __str__(self) -> str:
        return f'every("{format_duration(self.interval)}")'


@dataclass(frozen=True, slots=True)
class Quiet(TrainTrigger):
    """Fires when no event has come in for `span`: the swarm is silent.

    Every event that is stored breaks the silence, of whatever kind and for whatever learn model; a repeat of one that
    is stored already does not. Before the first event the silence runs from the first start of the scenario.
    """

    span: timedelta

    def __post_init__(self) -> None:
        check_span("a silence", self.span)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the age of the newest event with `span`."""
        since = context.last_event_at or context.first_started_at
        age = max(context.now - since, timedelta())
        event = "first start" if context.last_event_at is None else "last event"
        shown = format_duration(whole_seconds(age))
        return Verdict(age >= self.span, self, f"{shown} since the {event}")

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When it is quiet, if no event comes in until then."""
        return (context.last_event_at or context.first_started_at) + self.span

    def __str__(self) -> str:
        return f'quiet("{format_duration(self.span)}")'


@dataclass(frozen=True, slots=True)
class Quality(TrainTrigger):
    """Fires when the success rate of recent episodes is `below` or lower.

    Recent are the known outcomes of the newest `window` episodes that came, or changed, since the last
    training; with fewer than `min_samples` of them the rule is silent.
    """

    below: float = 0.6
    window: int = 50
    min_samples: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.below, bool) or not isinstance(self.below, (int, float)):
            raise ValueError(f"below {self.below!r} is not a number: expected 0..1")
        if not 0 <= self.below <= 1:
            raise ValueError(f"below {self.below} is out of range: expected 0..1")
        object.__setattr__(self, "below", float(self.below))
        check_count("window", self.window)
        if self.window > WINDOW_MAX:
            raise ValueError(f"window {self.window} is out of range: expected {WINDOW_MAX} at most")
        check_count("min_samples", self.min_samples)
        if self.min_samples > self.window:
            raise ValueError(
                f"min_samples {self.min_samples} never fit into a window of {self.window}: "
                "expected min_samples <= window"
            )

    @property
    def needs(self) -> Needs:
        """As many recent outcomes as the window holds."""
        return Needs(outcomes=self.window)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the success rate since the last training with `below`."""
        recent = context.recent[: self.window]
        if len(recent) < self.min_samples:
            return Verdict(False, self, f"{len(recent)} of {self.min_samples} outcomes needed")
        successes = sum(map(is_success, recent))
        detail = f"{successes} of {len(recent)} succeeded, {successes / len(recent):.0%}"
        return Verdict(successes / len(recent) <= self.below, self, detail)

    def __str__(self) -> str:
        return (
            f"quality(below={self.below!r}, window={self.window}, min_samples={self.min_samples})"
        )


@dataclass(frozen=True, slots=True)
class Always(TrainTrigger):
    """Fires whenever it is asked: once per finished training."""

    def judge(self, context: TriggerContext) -> Verdict:
        """Yes."""
        return Verdict(True, self)

    def __str__(self) -> str:
        return "always()"


@dataclass(frozen=True, slots=True)
class Manual(TrainTrigger):
    """Never fires: only `train-now` trains."""

    def judge(self, context: TriggerContext) -> Verdict:
        """No, and how to train all the same."""
        return Verdict(False, self, "only `honed train-now` trains")

    def __str__(self) -> str:
        return "manual()"


def check_count(name: str, value: object) -> None:
    """Raises ValueError for anything but a whole number from 1 to a billion."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT_MAX:
        shown = repr(value)
        shown = shown if len(shown) <= 50 else f"of {len(shown)} characters"
        raise ValueError(
            f"{name} {shown} is out of range: expected a whole number of 1 or more, {COUNT_MAX} at most"
        )


def check_span(what: str, span: timedelta) -> None:
    """Raises ValueError for a span of time that never ends, or longer than there are dates."""
    if not timedelta() < span <= SPAN_MAX:
        raise ValueError(
            f"{what} of {format_duration(max(span, timedelta()))} is out of range: "
            f"expected more than 0, {SPAN_MAX.days} days at most"
        )
