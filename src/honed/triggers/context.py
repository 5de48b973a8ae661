"""The facts at one instant that triggers judge; made by the loop from the store's counters."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from honed.domain.outcome import Outcome, is_success

TEN: Final = 10
"""Outcomes that `TriggerContext.tens` counts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMetrics:
    """Success rates over the episodes with a known outcome."""

    recent_success_rate: float
    overall_success_rate: float
    recent_sample_size: int = 0


class RunTime(NamedTuple):
    """When a run that trained began and ended; one that is in progress has no end."""

    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The facts that a rule wants to see beside the counters; what it does not need is not read."""

    outcomes: int = 0
    """Recent outcomes."""
    period: timedelta = timedelta()
    """For how long back it asks about runs."""
    tens: int = 0
    """Tens of outcomes."""

    def __or__(self, other: "Needs") -> "Needs":
        """What two rules need together."""
        return Needs(
            outcomes=max(self.outcomes, other.outcomes),
            period=max(self.period, other.period),
            tens=max(self.tens, other.tens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """The facts at one instant that triggers judge."""

    now: datetime
    first_started_at: datetime
    """When the scenario first ran; survives restarts."""
    last_event_at: datetime | None = None
    """When the newest event in the store came in."""
    last_train_at: datetime | None = None
    last_train_count: int = 0
    """Episodes that existed when the data of the last training were read."""
    episode_count: int = 0
    """Episodes ever made; never falls."""
    changed_count: int = 0
    """Episodes whose outcome is another than the one that the last training saw."""
    recent: tuple[Outcome, ...] = ()
    """Known outcomes of the episodes that are new or changed since the last training, newest first."""
    overall_success_rate: float = 0.0
    """Over all episodes with a known outcome."""
    last_run_at: datetime | None = None
    """When the last run that trained ended, whatever came of it."""
    failures: int = 0
    """Runs that failed since the last one that was done."""
    runs: tuple[RunTime, ...] = ()
    """Runs that trained in the period that the rule asks about, newest first."""
    tens: tuple[int, ...] = ()
    """Successes among each ten known outcomes of the episodes since the last training, newest ten first.

    A ten is counted once it is full, so that asking often is asking once for each ten.
    """

    @property
    def count(self) -> int:
        """Episodes that wait to be learned from: new ones, and changed ones once more."""
        return max(0, self.episode_count - self.last_train_count) + self.changed_count

    @property
    def metrics(self) -> TriggerMetrics | None:
        """Success rates of the recent outcomes and of all; None when no outcome is recent."""
        if not self.recent:
            return None
        return TriggerMetrics(
            recent_success_rate=sum(map(is_success, self.recent)) / len(self.recent),
            overall_success_rate=self.overall_success_rate,
            recent_sample_size=len(self.recent),
        )
