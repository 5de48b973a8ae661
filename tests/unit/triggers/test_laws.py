"""The three laws of triggers, on random rules and random facts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from honed.domain.outcome import Failure, Success, Timeout
from honed.triggers import (
    Always,
    Count,
    Every,
    Manual,
    Never,
    Quality,
    TrainTrigger,
    TriggerContext,
    from_table,
    parse,
    to_table,
)

_windows = st.integers(1, 10**5)
_leaves = st.one_of(
    st.builds(Count, st.integers(1, 10**9)),
    st.builds(Every, st.timedeltas(timedelta(microseconds=1), timedelta(days=10_000))),
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


@given(triggers)
def test_text_round_trip(trigger: TrainTrigger) -> None:
    """The text of a rule reads back to an equal rule."""
    assert parse(str(trigger)) == trigger


@given(triggers)
def test_table_round_trip(trigger: TrainTrigger) -> None:
    """The table of a rule reads back to an equal rule."""
    assert from_table(to_table(trigger)) == trigger


START = datetime(2026, 3, 2, tzinfo=UTC)
_ages = st.timedeltas(timedelta(), timedelta(days=30))
contexts = st.builds(
    lambda age, trained, new, recent: TriggerContext(
        now=START + age,
        first_started_at=START,
        last_train_at=trained and START + trained,
        last_train_count=7,
        episode_count=7 + new,
        recent=tuple(recent),
    ),
    _ages,
    st.none() | _ages,
    st.integers(-7, 1000),
    st.lists(st.sampled_from([Success(1.0), Failure(), Timeout(0.5)]), max_size=60),
)


@given(triggers, triggers, contexts)
def test_operators_agree_with_and_or_not(
    a: TrainTrigger, b: TrainTrigger, context: TriggerContext
) -> None:
    """`&`, `|` and `~` fire as `and`, `or` and `not` would."""
    fires_a, fires_b = a.should_train(context), b.should_train(context)
    assert (a & b).should_train(context) == (fires_a and fires_b)
    assert (a | b).should_train(context) == (fires_a or fires_b)
    assert (~a).should_train(context) == (not fires_a)
