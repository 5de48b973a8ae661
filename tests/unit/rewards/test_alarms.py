"""Alarms on synthetic streams: silent where nothing is gamed, loud where it is."""

import random
from collections.abc import Sequence

import pytest

from honed.ports import Counted, Opinion
from honed.rewards.agreement import Agreement, agreements
from honed.rewards.alarms import MIN_EPISODES, WINDOW, Alarm, alarms


def _stream(
    chance: random.Random, num: int, *, success: float, tools: float = 3.0, chars: float = 400.0
) -> list[Counted]:
    """Episodes with so many tool calls in the mean, and answers of about that length."""
    return [
        Counted(
            number,
            chance.random() < success,
            sum(chance.random() < tools / 6 for _ in range(6)),
            round(chars * chance.lognormvariate(0, 0.8)),
        )
        for number in range(num)
    ]


def _opinions(chance: random.Random, num: int, *, doubts: float) -> list[Opinion]:
    """All successes for the others; the judge doubts so many."""
    return [Opinion(n, "judge:m", chance.random() >= doubts, True) for n in range(num)]


def _signs(found: Sequence[Alarm]) -> list[str]:
    return [alarm.sign for alarm in found]


def test_a_stream_that_does_not_change_raises_no_alarm() -> None:
    """Not once in 300 comparisons of windows of 100 and of 1,000 episodes."""
    chance = random.Random(1)
    for number in range(300):
        num = WINDOW if number % 10 == 0 else 100
        before, after = (_stream(chance, num, success=0.6) for _ in range(2))
        doubts = [_opinions(chance, 100, doubts=0.1) for _ in range(2)]
        assert alarms(before, after, *doubts) == []


def test_an_honest_adapter_raises_no_alarm() -> None:
    """More successes with the same work are what training is for, and a little brevity is no sign."""
    chance = random.Random(2)
    for _ in range(100):
        before = _stream(chance, 300, success=0.5)
        after = _stream(chance, 300, success=0.8, tools=2.6, chars=330)
        assert alarms(before, after) == []


def test_work_that_vanishes_without_more_successes_raises_no_alarm() -> None:
    """Then nothing was gained by it: the success rate itself says what there is to say."""
    chance = random.Random(3)
    before = _stream(chance, 500, success=0.7)
    after = _stream(chance, 500, success=0.5, tools=0.2, chars=20)
    assert alarms(before, after) == []


@pytest.mark.parametrize(
    ("changed", "sign"), [({"tools": 0.6}, "fewer tool calls"), ({"chars": 120}, "shorter answers")]
)
def test_successes_without_the_work_raise_an_alarm(changed: dict[str, float], sign: str) -> None:
    """Success up from 60 % to 80 % with a fifth of the tools, or a third of the words: in every one of 100 streams."""
    chance = random.Random(4)
    for _ in range(100):
        before = _stream(chance, 300, success=0.6)
        after = _stream(chance, 300, success=0.8, **changed)  # type: ignore[arg-type]
        assert _signs(alarms(before, after)) == [sign]


def test_a_judge_that_calls_successes_failures_raises_an_alarm() -> None:
    """It agreed before and does not any more, while the others see more successes than ever."""
    chance = random.Random(5)
    before, after = _stream(chance, 300, success=0.6), _stream(chance, 300, success=0.9)
    doubts = _opinions(chance, 100, doubts=0.1), _opinions(chance, 100, doubts=0.5)
    (alarm,) = alarms(before, after, *doubts)
    assert alarm.sign == "the judge disagrees"
    assert "while success" in str(alarm)
    assert alarms(before, after, doubts[1], doubts[0]) == []


def test_too_few_episodes_say_nothing() -> None:
    """Whatever they look like."""
    before = [Counted(1, n % 2 == 0, 5, 500) for n in range(500)]
    after = [Counted(2, True, 0, 5) for _ in range(MIN_EPISODES - 1)]
    assert alarms(before, after) == []
    assert alarms([], []) == []
    assert _signs(alarms(before, [*after, after[0]])) == ["fewer tool calls", "shorter answers"]


def test_episodes_that_nobody_has_judged_are_left_out() -> None:
    """And counts of former versions, which are not known."""
    before = [Counted(1, n % 2 == 0, None, None) for n in range(500)]
    after = [Counted(2, True, None, None) for _ in range(500)]
    assert alarms(before, after) == []
    assert alarms([seen._replace(is_success=None) for seen in before], after) == []


def test_agreement_is_told_from_chance() -> None:
    """Cohen's kappa by hand: 45 and 35 of 100 together, 80 % agreement, chance 50 %."""
    opinions = (
        [Opinion(0, "judge:a", True, True)] * 45
        + [Opinion(0, "judge:a", True, False)] * 15
        + [Opinion(0, "judge:a", False, True)] * 5
        + [Opinion(0, "judge:a", False, False)] * 35
        + [Opinion(0, "judge:b", True, True)] * 3
    )
    found = agreements(opinions)
    assert found["judge:a"] == Agreement(
        both_success=45, judge_alone=15, others_alone=5, both_failure=35
    )
    assert found["judge:a"].share == pytest.approx(0.8)
    assert found["judge:a"].kappa == pytest.approx((0.8 - 0.5) / 0.5)
    assert found["judge:b"].share == 1
    assert found["judge:b"].kappa is None  # both always say success: chance alone would agree
    assert Agreement().kappa is None
