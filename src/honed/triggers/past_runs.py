"""Conditions on what trained before: how long ago, how much of it, with what luck.

A run counts from its start to its end: done, failed, cancelled or cut off, asked for by a rule or by a person. One
that found nothing to learn from has trained nothing and does not count.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from honed.triggers.conditions import check_count, check_span
from honed.triggers.context import Needs, RunTime, TriggerContext
from honed.triggers.duration import format_duration, whole_seconds
from honed.triggers.trigger import TrainTrigger, Verdict

PERIOD_MAX: Final = timedelta(days=366)
"""The longest period of a budget; its runs are read each time it is judged."""
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Cooldown(TrainTrigger):
    """Fires when the last run ended at least `rest` ago, whatever came of it; before the first run too."""

    rest: timedelta

    def __post_init__(self) -> None:
        check_span("a rest", self.rest)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the age of the last run's end with `rest`."""
        if context.last_run_at is None:
            return Verdict(True, self, "nothing has trained yet")
        age = max(context.now - context.last_run_at, timedelta())
        detail = f"{format_duration(whole_seconds(age))} since the last run"
        return Verdict(age >= self.rest, self, detail)

    def next_change(self, context: TriggerContext) -> datetime | None:
        """The end of the rest."""
        return None if context.last_run_at is None else context.last_run_at + self.rest

    def __str__(self) -> str:
        return f'cooldown("{format_duration(self.rest)}")'


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(TrainTrigger):
    """Fires while less than the budget was spent in the last `per`: runs that began in it, hours that they took.

    The period slides. A run that began before it counts with the hours that lie inside. What is spent is looked at
    before a run begins and not during it, so that the last one may go beyond.
    """

    runs: int | None = None
    gpu_hours: float | None = None
    per: timedelta

    def __post_init__(self) -> None:
        if self.runs is None and self.gpu_hours is None:
            raise ValueError("a budget of nothing: expected runs=, gpu_hours= or both")
        if self.runs is not None:
            check_count("runs", self.runs)
        if (hours := self.gpu_hours) is not None:
            is_number = isinstance(hours, (int, float)) and not isinstance(hours, bool)
            if not is_number or not 0 < hours <= PERIOD_MAX / _HOUR:
                raise ValueError(f"gpu_hours {hours!r} is out of range: expected hours above 0")
            object.__setattr__(self, "gpu_hours", float(hours))
        check_span("a period", self.per)
        if self.per > PERIOD_MAX:
            raise ValueError(f"per {format_duration(self.per)} is too long: expected 366d at most")

    @property
    def needs(self) -> Needs:
        """The runs of the period."""
        return Needs(period=self.per)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare what the runs of the period took with the budget."""
        since, spent = context.now - self.per, []
        within = True
        if self.runs is not None:
            count = sum(run.started_at > since for run in context.runs)
            within = count < self.runs
            spent.append(f"{count} of {self.runs} runs")
        if self.gpu_hours is not None:
            took = _took(context, since)
            within = within and took / _HOUR < self.gpu_hours
            spent.append(f"{took / _HOUR:.2f} of {self.gpu_hours:g} GPU hours")
        detail = f"{' and '.join(spent)} in the last {format_duration(self.per)}"
        return Verdict(within, self, detail)

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When the next run begins to leave the period, or has left enough of it."""
        since, changes = context.now - self.per, []
        if self.runs is not None:
            changes += [run.started_at + self.per for run in context.runs]
        if self.gpu_hours is not None:
            above = _took(context, since) - self.gpu_hours * _HOUR
            if above >= timedelta():
                # Hours leave the period as fast as time passes, once the oldest run has begun to.
                inside = (run for run in context.runs if not run.ended_at or run.ended_at > since)
                leaving = min(max(run.started_at, since) for run in inside)
                changes.append(leaving + self.per + max(above, timedelta.resolution))
        return min((change for change in changes if change > context.now), default=None)

    def __str__(self) -> str:
        runs = "" if self.runs is None else f"runs={self.runs}, "
        hours = "" if self.gpu_hours is None else f"gpu_hours={self.gpu_hours!r}, "
        return f'budget({runs}{hours}per="{format_duration(self.per)}")'


def _took(context: TriggerContext, since: datetime) -> timedelta:
    """How long the runs took since then."""
    return sum((_took_by(run, since, context.now) for run in context.runs), timedelta())


def _took_by(run: RunTime, since: datetime, now: datetime) -> timedelta:
    # one that seems to begin after now does so because the clock was set back
    ended_at = run.ended_at or max(now, run.started_at)
    return max(ended_at - max(run.started_at, since), timedelta())


@dataclass(frozen=True, slots=True)
class Failures(TrainTrigger):
    """Fires while fewer than `below` runs have failed since the last one that was done.

    Runs that were cancelled, cut off or found nothing to learn from change nothing. Once it is silent, only a run
    that somebody starts by `train-now`, and that is done, lets it fire again.
    """

    below: int

    def __post_init__(self) -> None:
        check_count("below", self.below)

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the failed runs with `below`."""
        some = "run" if context.failures == 1 else "runs"
        detail = f"{context.failures} failed {some} since the last that was done"
        return Verdict(context.failures < self.below, self, detail)

    def __str__(self) -> str:
        return f"failures(below={self.below})"
