"""Each condition on the facts it is about, and the laws of `&`, `|` and `~`."""

from datetime import UTC, datetime, timedelta

import pytest

from honed.domain.outcome import Failure, Outcome, Success, Timeout
from honed.triggers import (
    Always,
    Count,
    Every,
    Manual,
    Never,
    Quality,
    TriggerContext,
    parse,
)
from honed.triggers.trigger import AnyOf

START = datetime(2026, 3, 2, tzinfo=UTC)


def facts(
    *,
    age: timedelta = timedelta(),
    trained_ago: timedelta | None = None,
    new: int = 0,
    recent: tuple[Outcome, ...] = (),
) -> TriggerContext:
    now = START + age
    trained_at = None if trained_ago is None else now - trained_ago
    return TriggerContext(
        now=now,
        first_started_at=START,
        last_train_at=trained_at,
        last_train_count=7,
        episode_count=7 + new,
        recent=recent,
    )


@pytest.mark.feature("SE-097")
def test_count_fires_on_new_episodes_only() -> None:
    """Episodes of the last training do not count again."""
    assert not Count(100).should_train(facts(new=99))
    assert Count(100).should_train(facts(new=100))
    assert Count(1).judge(facts(new=-3)).detail == "0 of 1 episodes"


@pytest.mark.feature("SE-098")
def test_every_runs_from_the_first_start_before_the_first_training() -> None:
    """A source that stops talking still trains once a day."""
    daily = Every(timedelta(days=1))
    assert not daily.should_train(facts(age=timedelta(hours=23)))
    assert daily.should_train(facts(age=timedelta(days=1)))
    assert daily.judge(facts(age=timedelta(hours=25))).detail == "1d1h since the first start"


@pytest.mark.feature("SE-098")
def test_every_runs_from_the_last_training() -> None:
    """The age counts from the end of the last training, however old the scenario is."""
    hourly = Every(timedelta(hours=1))
    assert not hourly.should_train(facts(age=timedelta(days=9), trained_ago=timedelta(minutes=59)))
    assert hourly.should_train(facts(age=timedelta(days=9), trained_ago=timedelta(hours=1)))


def test_a_clock_that_steps_back_does_not_fire() -> None:
    """An age below zero is zero."""
    verdict = Every(timedelta(seconds=1)).judge(facts(trained_ago=-timedelta(hours=3)))
    assert (verdict.fires, verdict.detail) == (False, "0s since the last training")


@pytest.mark.feature("SE-099")
def test_quality_fires_at_or_under_the_limit() -> None:
    """The rule is silent until enough outcomes are known, then fires at the limit."""
    rule = Quality(below=0.6, window=50, min_samples=10)
    six, seven = [Success()] * 6 + [Failure()] * 4, [Success()] * 7 + [Timeout(0.9)] * 3
    assert rule.should_train(facts(recent=tuple(six)))
    assert not rule.should_train(facts(recent=tuple(seven)))
    assert not rule.should_train(facts(recent=tuple([Failure()] * 9)))
    assert rule.judge(facts(recent=(Failure(),))).detail == "1 of 10 outcomes needed"


@pytest.mark.feature("SE-099")
def test_quality_looks_at_its_window_only() -> None:
    """Outcomes older than the window do not count."""
    recent = (Success(),) * 10 + (Failure(),) * 90
    assert not Quality(below=0.6, window=10, min_samples=10).should_train(facts(recent=recent))
    assert (Quality(window=30) | Quality(window=70) & ~Quality(window=80)).needs.outcomes == 80


@pytest.mark.feature("SE-102", "SE-103", "SE-104")
def test_constants() -> None:
    """`always` fires, `manual` and `never` do not."""
    assert Always().should_train(facts())
    assert not Manual().should_train(facts())
    assert not Never().should_train(facts())


@pytest.mark.feature("SE-093")
def test_the_verdict_explains_itself() -> None:
    """Every line of the explanation has a yes or no and its figures; nothing is cut short."""
    rule = parse('count(200) & quality(below=0.5) | every("1d")')
    assert rule.explain(facts(new=200, age=timedelta(hours=2))).splitlines() == [
        'no  count(200) & quality(below=0.5, window=50, min_samples=10) | every("1d")',
        "  no  count(200) & quality(below=0.5, window=50, min_samples=10)",
        "    yes count(200)  (200 of 200 episodes)",
        "    no  quality(below=0.5, window=50, min_samples=10)  (0 of 10 outcomes needed)",
        '  no  every("1d")  (2h since the first start)',
    ]


def test_a_trigger_has_no_truth() -> None:
    """`a and b` is an error rather than a wrong rule."""
    with pytest.raises(TypeError, match="no truth"):
        bool(Always())
    with pytest.raises(TypeError):
        Always() & True  # type: ignore[operator]


def test_a_rule_is_flat_by_construction() -> None:
    """A nested or single-part rule cannot be built past the operators."""
    with pytest.raises(ValueError, match="flat"):
        AnyOf((Always(),))
    with pytest.raises(ValueError, match="flat"):
        AnyOf((Always(), AnyOf((Always(), Never()))))


@pytest.mark.feature("SE-093")
def test_names() -> None:
    """A rule is named as its table form names it."""
    rules = [Count(1), Count(1) | Never(), Count(1) & Never(), ~Never()]
    assert [rule.name for rule in rules] == ["count", "any", "all", "not"]
