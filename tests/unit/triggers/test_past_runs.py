"""Silence, rest, budgets and failures, on the facts that they are about."""

from datetime import UTC, datetime, timedelta

import pytest

from honed.triggers import RunTime, TriggerContext, parse

HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)


def run(began_ago: float, took: float | None) -> RunTime:
    """A run that began so many hours ago; one that took None is in progress."""
    start = NOW - began_ago * HOUR
    return RunTime(start, None if took is None else start + took * HOUR)


def facts(*runs: RunTime, now: datetime = NOW, **others: object) -> TriggerContext:
    first = NOW - timedelta(days=30)
    return TriggerContext(now=now, first_started_at=first, runs=runs, **others)  # type: ignore[arg-type]


def test_a_silent_swarm() -> None:
    """The silence runs from the newest event, before the first one from the first start."""
    rule = parse('quiet("10m")')
    recent, old = NOW - timedelta(minutes=9), NOW - timedelta(minutes=10)
    assert not rule.should_train(facts(last_event_at=recent))
    assert rule.should_train(facts(last_event_at=old))
    assert rule.judge(facts(last_event_at=recent)).detail == "9m since the last event"
    assert rule.judge(facts()).detail == "30d since the first start"
    assert rule.next_change(facts(last_event_at=recent)) == NOW + timedelta(minutes=1)
    assert not rule.should_train(facts(last_event_at=NOW + HOUR))  # the clock was set back


def test_rest_after_a_run() -> None:
    """It lasts from the end of the last run, however that ended; nothing has to rest before the first."""
    rule = parse('cooldown("2h")')
    assert rule.judge(facts()).detail == "nothing has trained yet"
    assert rule.should_train(facts())
    assert not rule.should_train(facts(last_run_at=NOW - 1.9 * HOUR))
    verdict = rule.judge(facts(last_run_at=NOW - 2 * HOUR))
    assert (verdict.fires, verdict.detail) == (True, "2h since the last run")
    assert not rule.should_train(facts(last_run_at=NOW + HOUR))  # the clock was set back


def test_a_budget_of_runs() -> None:
    """Runs that began within the period count, also one in progress; each leaves it on its own."""
    rule = parse('budget(runs=2, per="1d")')
    assert rule.should_train(facts())
    spent = facts(run(1, 0.5), run(23, 1), run(24, 1), run(99, 1))
    assert not rule.should_train(spent)
    assert rule.judge(spent).detail == "2 of 2 runs in the last 1d"
    assert rule.next_change(spent) == NOW + HOUR
    assert rule.should_train(facts(*spent.runs, now=NOW + HOUR))
    assert not rule.should_train(facts(run(0.1, None), run(2, 1)))


def test_a_budget_of_hours() -> None:
    """What a run took within the period counts, of one that reaches into it the part inside."""
    rule = parse('budget(gpu_hours=2, per="1d")')
    assert rule.should_train(facts(run(5, 1.99)))
    assert not rule.should_train(facts(run(5, 2)))
    assert rule.should_train(facts(run(25, 2.9)))
    spent = facts(run(5, 0.5), run(25, 3))
    assert rule.judge(spent).detail == "2.50 of 2 GPU hours in the last 1d"
    change = rule.next_change(spent)
    assert change == NOW + 0.5 * HOUR
    assert rule.should_train(facts(*spent.runs, now=change + timedelta(seconds=1)))
    going_on = rule.judge(facts(run(1.5, None)))
    assert going_on.detail == "1.50 of 2 GPU hours in the last 1d"


def test_a_budget_of_both() -> None:
    """Neither may be spent."""
    rule = parse('budget(runs=3, gpu_hours=1.5, per="12h")')
    assert rule.should_train(facts(run(1, 0.5), run(2, 0.5)))
    assert not rule.should_train(facts(run(1, 0.5), run(2, 1)))
    verdict = rule.judge(facts(run(1, 0.1), run(2, 0.1), run(3, 0.1)))
    assert verdict.detail == "3 of 3 runs and 0.30 of 1.5 GPU hours in the last 12h"
    assert not verdict.fires


@pytest.mark.parametrize(
    ("now", "began"),
    [
        ("2026-03-29T11:00+02:00", "2026-03-28T10:00+01:00"),  # Berlin, a day of 23 hours
        ("2026-10-25T09:00+01:00", "2026-10-24T10:00+02:00"),  # a day of 25
        ("2026-03-08T11:00-04:00", "2026-03-07T10:00-05:00"),  # New York
        ("2026-09-06T11:00-03:00", "2026-09-05T10:00-04:00"),  # Santiago
        ("2026-10-04T10:30+11:00", "2026-10-03T10:00+10:30"),  # Lord Howe, a day of 23.5
        ("2028-02-29T10:00+05:45", "2028-02-28T10:00+05:45"),  # Kathmandu, a leap day
    ],
)
def test_a_budgets_day_has_24_hours(now: str, began: str) -> None:
    """It slides, and clocks on walls, set or not, are nothing to it."""
    rule = parse('budget(runs=1, per="1d")')
    start, end = datetime.fromisoformat(began), datetime.fromisoformat(now)
    ran = RunTime(start, start + HOUR)
    assert end.astimezone(UTC) - start.astimezone(UTC) == 24 * HOUR
    assert rule.should_train(facts(ran, now=end))
    assert not rule.should_train(facts(ran, now=end - timedelta(seconds=1)))


def test_a_clock_that_was_set_back_gives_no_budget() -> None:
    """A run that seems to begin later than now has been none the less."""
    ran = facts(run(-1, 1.5))
    assert parse('budget(runs=1, per="1d")').judge(ran).detail == "1 of 1 runs in the last 1d"
    hours = parse('budget(gpu_hours=1, per="1d")').judge(ran)
    assert (hours.fires, hours.detail) == (False, "1.50 of 1 GPU hours in the last 1d")
    assert not parse('budget(gpu_hours=1, per="1d")').should_train(facts(run(1, None), run(-1, 1)))


def test_too_many_failures() -> None:
    """Silent from the n-th on."""
    rule = parse("failures(below=3)")
    assert rule.should_train(facts())
    assert rule.judge(facts(failures=1)).detail == "1 failed run since the last that was done"
    verdict = rule.judge(facts(failures=3))
    assert (verdict.fires, verdict.detail) == (False, "3 failed runs since the last that was done")


def test_a_rule_says_what_it_needs() -> None:
    """What is not needed is not read."""
    rule = parse('count(3) | budget(runs=1, per="1d") & ~budget(runs=9, per="7d") | quality()')
    assert (rule.needs.outcomes, rule.needs.period) == (50, timedelta(days=7))
    nothing = parse('count(3) & quiet("1h") | cooldown("2h") & failures(below=3)').needs
    assert (nothing.outcomes, nothing.period) == (0, timedelta())
