"""The conditions that rules are made of; each is one sentence about the facts."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from honed.domain.outcome import is_success
from honed.triggers.context import TriggerContext
from honed.triggers.duration import format_duration
from honed.triggers.trigger import TrainTrigger, Verdict

WINDOW_MAX: Final = 100_000
"""Outcomes that a rule may look at; all of them are read each time it is judged."""


@dataclass(frozen=True, slots=True)
class Count(TrainTrigger):
    """Fires when at least `count` episodes wait to be learned from: new, or with another outcome since."""

    count: int

    def __post_init__(self) -> None:
        _check_count("count", self.count)

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
        if self.interval <= timedelta():
            raise ValueError(f"an interval of {self.interval} never ends: expected more than 0")

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the age of the last training with `interval`."""
        since = context.last_train_at or context.first_started_at
        age = max(context.now - since, timedelta())
        event = "first start" if context.last_train_at is None else "last training"
        shown = format_duration(age - timedelta(microseconds=age.microseconds))
        return Verdict(age >= self.interval, self, f"{shown} since the {event}")

    def __str__(self) -> str:
        return f'every("{format_duration(self.interval)}")'


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
        _check_count("window", self.window)
        if self.window > WINDOW_MAX:
            raise ValueError(f"window {self.window} is out of range: expected {WINDOW_MAX} at most")
        _check_count("min_samples", self.min_samples)
        if self.min_samples > self.window:
            raise ValueError(
                f"min_samples {self.min_samples} never fit into a window of {self.window}: "
                "expected min_samples <= window"
            )

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


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value!r} is out of range: expected a whole number of 1 or more")
