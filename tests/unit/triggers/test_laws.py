"""The three laws of triggers, on random rules and random facts."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.domain.outcome import Failure, Success, Timeout
from honed.triggers import (
    Always,
    Budget,
    Cooldown,
    Count,
    Cron,
    Drift,
    Every,
    Failures,
    Manual,
    Never,
    Quality,
    Quiet,
    RunTime,
    TrainTrigger,
    TriggerContext,
    Window,
    from_table,
    parse,
    to_table,
)
from honed.triggers.text import CONDITIONS

_windows = st.integers(1, 10**5)
_spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=10_000))
_zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Santiago", "Asia/Kathmandu", "Etc/GMT+9"]
)
_minutes = st.integers(0, 24 * 60 - 1).map(lambda minute: time(*divmod(minute, 60)))
_schedules = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["*", "0", "*/5", "1,59", "10-20"]),
    st.sampled_from(["*", "3", "2-4", "*/6"]),
    st.sampled_from(["*", "1", "L", "29"]),
    st.sampled_from(["*", "2", "jan-jun"]),
    st.sampled_from(["*", "mon", "SUN#1", "5L"]),
)
_budgets = st.tuples(st.none() | st.integers(1, 10**6), st.none() | st.floats(0.01, 8_784)).filter(
    any
)
_leaves = st.one_of(
    st.builds(Count, st.integers(1, 10**9)),
    st.builds(Every, _spans),
    st.builds(Quiet, _spans),
    st.builds(Cooldown, _spans),
    st.builds(
        lambda ends, tz: Window(*ends, tz),
        st.lists(_minutes, min_size=2, max_size=2, unique=True),
        _zones,
    ),
    st.builds(Cron, _schedules, _zones),
    st.builds(
        lambda limits, per: Budget(runs=limits[0], gpu_hours=limits[1], per=per),
        _budgets,
        st.timedeltas(timedelta(microseconds=1), timedelta(days=366)),
    ),
    st.builds(Failures, st.integers(1, 10**6)),
    st.builds(Drift, st.floats(0.05, 0.5), st.floats(0.001, 0.1)),
    st.builds(
        lambda below, a, b: Quality(below, max(a, b), min(a, b)),
        st.floats(0, 1),
        _windows,
        _windows,
    ),
    st.sampled_from([Always(), Manual(), Never()]),
)
triggers = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=10,
)


def test_the_laws_are_tried_on_every_condition() -> None:
    """A new condition is missing here until its leaves are made."""
    made: set[str] = set()

    @settings(max_examples=300, database=None)
    @given(_leaves)
    def look(leaf: TrainTrigger) -> None:
        made.add(leaf.name)

    look()
    assert made == CONDITIONS.keys()


@pytest.mark.feature("SE-093", "SE-105")
@given(triggers)
def test_text_round_trip(trigger: TrainTrigger) -> None:
    """The text of a rule reads back to an equal rule."""
    assert parse(str(trigger)) == trigger


@pytest.mark.feature("SE-105")
@given(triggers)
def test_table_round_trip(trigger: TrainTrigger) -> None:
    """The table of a rule reads back to an equal rule."""
    assert from_table(to_table(trigger)) == trigger


START = datetime(2026, 3, 2, tzinfo=UTC)
_ages = st.timedeltas(timedelta(), timedelta(days=30))
_instants = _ages.map(lambda age: START + age)


def _one_after_the_other(spans: list[tuple[timedelta, timedelta]]) -> tuple[RunTime, ...]:
    """Runs, newest first, from how long nothing ran before each, and how long it took."""
    runs: list[RunTime] = []
    end = START
    for pause, took in spans:
        runs.append(RunTime(end + pause, end + pause + took))
        end += pause + took
    return tuple(reversed(runs))


contexts = st.builds(
    lambda new, recent, runs, **facts: TriggerContext(
        first_started_at=START,
        last_train_count=7,
        episode_count=7 + new,
        recent=tuple(recent),
        runs=_one_after_the_other(runs),
        **facts,
    ),
    st.integers(-7, 1000),
    st.lists(st.sampled_from([Success(1.0), Failure(), Timeout(0.5)]), max_size=60),
    st.lists(st.tuples(_ages, _ages), max_size=5),
    now=_instants,
    last_event_at=st.none() | _instants,
    last_train_at=st.none() | _instants,
    last_run_at=st.none() | _instants,
    failures=st.integers(0, 9),
    tens=st.lists(st.integers(0, 10), max_size=30).map(tuple),
)


@pytest.mark.feature("SE-100", "SE-101")
@given(triggers, triggers, contexts)
def test_operators_agree_with_and_or_not(
    a: TrainTrigger, b: TrainTrigger, context: TriggerContext
) -> None:
    """`&`, `|` and `~` fire as `and`, `or` and `not` would."""
    fires_a, fires_b = a.should_train(context), b.should_train(context)
    assert (a & b).should_train(context) == (fires_a and fires_b)
    assert (a | b).should_train(context) == (fires_a or fires_b)
    assert (~a).should_train(context) == (not fires_a)


@given(triggers, contexts, st.floats(0, 1))
def test_what_time_alone_changes_is_foretold(
    rule: TrainTrigger, context: TriggerContext, share: float
) -> None:
    """Until the next change that a rule foretells, it says what it says now."""
    change = rule.next_change(context)
    end = change if change is not None and change > context.now else START + timedelta(days=90)
    later = min(context.now + share * (end - context.now), end - timedelta(microseconds=1))
    if later > context.now:
        then = replace(context, now=later)
        assert rule.should_train(then) == rule.should_train(context)
