"""Intervals know how many independent witnesses there are."""

import random

import pytest

from honed.gate import estimates
from honed.gate.chance import Scored


def test_trials_of_one_task_widen_the_interval() -> None:
    """Ten trials of each of twenty tasks that agree with each other count as twenty."""
    rng = random.Random(1)
    own = [rng.gauss(0, 1) for _ in range(20)]
    tasks = [Scored(str(task), True, own[task]) for task in range(20) for _ in range(10)]
    apart = [Scored(str(i), True, each.gain) for i, each in enumerate(tasks)]
    one, other = estimates.mean_gain(tasks), estimates.mean_gain(apart)
    assert one is not None
    assert other is not None
    assert one.value == pytest.approx(other.value)
    assert one.high - one.low > 3 * (other.high - other.low)


@pytest.mark.parametrize("num", [6, 30, 200])
def test_intervals_hold_the_truth(num: int) -> None:
    """Of 400 intervals about 95 % hold it, of few episodes as of many."""
    held = 0
    for seed in range(400):
        rng = random.Random(seed)
        interval = estimates.mean_gain(
            [Scored(str(i), True, rng.gauss(0.3, 1)) for i in range(num)]
        )
        assert interval is not None
        held += interval.low <= 0.3 <= interval.high
    assert 368 <= held <= 392


def test_one_task_tells_nothing_of_its_error() -> None:
    """Trials of a single task have a mean, and nobody knows how far off it is."""
    trials = [Scored("task", True, 0.1 * i) for i in range(9)]
    assert estimates.mean_gain(trials) is None
    assert estimates.contrast([*trials, Scored("a", False, 0), Scored("b", False, 1)]) is None
    assert estimates.mean_gain([]) is None


def test_what_can_be_detected_shrinks_with_more_episodes() -> None:
    """Four times the episodes show an effect of half the size; a stricter level needs more."""
    rng = random.Random(5)
    gains = [rng.gauss(0, 1) for _ in range(100)]
    few = estimates.mean_gain([Scored(str(i), True, g) for i, g in enumerate(gains)])
    many = estimates.mean_gain([Scored(str(i), True, g) for i, g in enumerate(gains * 4)])
    assert few is not None
    assert many is not None
    ratio = estimates.detectable(many, 0.01) / estimates.detectable(few, 0.01)
    assert ratio == pytest.approx(0.5, abs=0.02)
    assert estimates.detectable(few, 0.001) > estimates.detectable(few, 0.01)
