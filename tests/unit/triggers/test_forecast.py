"""When a rule will fire, if things go on as they do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.outcome import Success
from honed.triggers import Quiet, TrainTrigger, TriggerContext, Verdict, Window, from_table, parse
from honed.triggers.forecast import forecast
from tests.unit.triggers.test_laws import triggers

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def facts(new: int = 0, *, trained_ago: timedelta | None = None) -> TriggerContext:
    return TriggerContext(
        now=NOON,
        first_started_at=NOON - 5 * HOUR,
        last_event_at=NOON - timedelta(minutes=1),
        last_train_at=None if trained_ago is None else NOON - trained_ago,
        last_train_count=40,
        episode_count=40 + new,
        recent=(Success(),) * 20,
    )


@pytest.mark.parametrize(
    ("rule", "new", "per_hour", "after"),
    [
        ("count(100)", 100, 0.0, timedelta()),
        ("count(100)", 60, 20.0, 2 * HOUR),
        ("count(100)", 60, 0.0, None),
        ("every('8h')", 1, 0.0, 3 * HOUR),
        ("every('8h')", 0, 0.1, 10 * HOUR),
        ("every('8h')", 0, 0.0, None),
        ("count(100) | every('6h')", 60, 20.0, HOUR),
        ("count(100) & window('01:00-06:00')", 60, 20.0, 13 * HOUR),
        ("cron('30 12 * * *')", 1, 5.0, HOUR / 2),
        ("count(10) & quiet('30m')", 50, 1.0, timedelta(minutes=29)),
        ("count(10) & quiet('30m')", 50, 100.0, None),
        ("quiet('30m')", 50, 0.0, timedelta(minutes=29)),
        ("~count(5) & every('6h')", 1, 10.0, None),
        ("~window('10:00-14:00')", 1, 0.0, 2 * HOUR),
        ("manual()", 9, 5.0, None),
    ],
)
def test_time_exactly_and_episodes_at_their_rate(
    rule: str, new: int, per_hour: float, after: timedelta | None
) -> None:
    """Joined as the rule joins them; None where it does not fire at this rate."""
    found = forecast(parse(rule), facts(new), per_hour=per_hour)
    if after is None:
        assert (found.prospect, found.at) == ("not", None)
        return
    assert found.prospect == ("later" if after else "now")
    assert found.at is not None
    assert abs(found.at - NOON - after) < timedelta(milliseconds=1)


def test_what_outcomes_decide_is_open() -> None:
    """It is said which condition was taken as it stands."""
    found = forecast(parse("quality(0.5) & count(10)"), facts(50), per_hour=9)
    assert (found.prospect, found.as_they_stand) == ("open", (parse("quality(0.5)"),))
    found = forecast(parse("drift() | every('6h')"), facts(50), per_hour=9)
    assert (found.prospect, found.at) == ("later", NOON + HOUR)
    assert found.as_they_stand == (parse("drift()"),)


def test_a_back_off_is_waited_for() -> None:
    """However clearly the rule fires."""
    found = forecast(parse("always()"), facts(5), per_hour=0, not_before=NOON + HOUR)
    assert (found.prospect, found.at) == ("later", NOON + HOUR)


@given(triggers, st.integers(0, 60), st.sampled_from([0.0, 0.3, 7.0, 1e4]))
def test_what_fires_now_is_said_to_fire_now(rule: TrainTrigger, new: int, per_hour: float) -> None:
    """And nothing else is, whatever the rule."""
    found = forecast(rule, facts(new), per_hour=per_hour)
    assert (found.prospect == "now") == (rule.should_train(facts(new)) and new > 0)


def _windows(num: int) -> str:
    """A rule of so many windows, each a minute later than the one before."""
    return " & ".join(f'window("00:{n:02}-23:{n:02}")' for n in range(num))


def test_a_rule_with_very_many_parts_is_foreseen_as_far_as_work_goes() -> None:
    """It is said until when it was looked, and every part is looked at a bounded number of times."""
    rule = from_table({"all": ["count(1000000)", *[_windows(34)] * 3]})
    looks: list[None] = []
    judge = Window.judge

    def counting(self: Window, context: TriggerContext) -> Verdict:
        looks.append(None)
        return judge(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Window, "judge", counting)
        found = forecast(rule, facts(5), per_hour=1)
    assert (found.prospect, found.at) == ("unforeseen", None)
    assert found.until is not None
    assert NOON + 24 * HOUR < found.until < NOON + timedelta(days=366)
    assert not rule.should_train(replace(facts(5), now=found.until))
    assert len(looks) <= 200_000


@given(triggers, st.integers(0, 60), st.sampled_from([0.0, 0.3, 7.0, 1e4]))
def test_what_is_remembered_of_the_future_is_what_would_be_found_anew(
    rule: TrainTrigger, new: int, per_hour: float
) -> None:
    """Against a forecast that asks every condition again at every step."""
    found = forecast(rule, facts(new), per_hour=per_hour)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("honed.triggers.forecast._look_ahead", _anew)
        assert found == forecast(rule, facts(new), per_hour=per_hour)


def _anew(coming: dict[int, Any], conditions: tuple[TrainTrigger, ...], then: Any) -> None:
    comes_in = then.last_event_at == then.now
    for place, condition in enumerate(conditions):
        silent = comes_in and isinstance(condition, Quiet)
        coming[place] = None if silent else condition.next_change(then)
