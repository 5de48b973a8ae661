"""Nothing that the whole gains makes up for harm in one of its parts."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.errors import ConfigError
from honed.gate import HeldOutGate
from honed.gate.slices import num_harmed
from honed.ports import HeldOut

Slice = tuple[str, str]


def judge(
    size: int,
    gain: Callable[[int], float],
    slices: Callable[[int], tuple[Slice, ...]],
    *,
    seed: int = 1,
    **settings: Any,
) -> GateResult:
    """Half successes, whose gain is `gain`; failures lose as much."""
    rng = random.Random(seed)
    held_out = [
        HeldOut(
            episode_id=f"e{i}",
            group=f"g{i}",
            is_success=rng.random() < 0.5,
            slices=slices(i),
        )
        for i in range(size)
    ]
    scores = [
        EpisodeScore(
            num_tokens=9,
            incumbent=-2,
            candidate=-2 + rng.gauss(gain(i) if episode.is_success else -gain(i), 0.4),
        )
        for i, episode in enumerate(held_out)
    ]
    return HeldOutGate(**settings).judge(held_out, scores, incumbent_id=None, now_ms=0)


def one_of_eight(i: int) -> tuple[Slice, ...]:
    return (("tool", str(i % 8)),)


def test_a_gain_everywhere_passes() -> None:
    """Eight slices that all gain stop nothing."""
    result = judge(1_600, lambda i: 0.1, one_of_eight)
    assert result.passed
    assert [part.is_harmed for part in result.slices] == [False] * 8


def test_harm_in_one_slice_is_a_fail() -> None:
    """Seven slices that gain do not outvote the eighth, and the verdict names it."""
    result = judge(1_600, lambda i: -0.1 if i % 8 == 3 else 0.1, one_of_eight)
    assert result.decision == "fail"
    assert "worse on tool=3 (200 episodes" in result.reason
    assert (result.slices[0].name, result.slices[0].is_harmed) == ("tool=3", True)
    assert result.contrast is not None
    assert result.contrast.low > 0


def test_the_same_episodes_are_one_slice() -> None:
    """A tool that only one worker uses is looked at once, under both names."""
    result = judge(
        400,
        lambda i: 0.1,
        lambda i: (("tool", "a"), ("worker", "7")) if i % 2 else (("tool", "b"),),
    )
    assert sorted(part.name for part in result.slices) == ["tool=a, worker=7", "tool=b"]


def test_what_all_have_in_common_and_what_few_have_is_no_slice() -> None:
    """The scenario is the whole set, and nineteen episodes show nothing."""
    result = judge(
        400, lambda i: 0.1, lambda i: (("scenario", "air"), *((("tool", "x"),) if i < 19 else ()))
    )
    assert result.slices == ()


def test_a_protected_suite_that_became_worse_fails() -> None:
    """Harm that would be lost among fifty slices is found where it must not be."""
    result = judge(
        2_000,
        lambda i: -0.08 if i % 10 == 0 else 0.1,
        lambda i: (("suite", "safety"),) if i % 10 == 0 else (("tool", str(i % 49)),),
        protected=["suite=safety"],
    )
    assert result.decision == "fail"
    assert "protected suite=safety became worse" in result.reason
    assert result.slices[0].is_protected


def test_a_protected_suite_that_may_have_become_worse_waits() -> None:
    """A loss that may be chance does not fail, but it does not pass either."""
    told = {
        seed: judge(
            600,
            lambda i: 0.0 if i % 10 == 0 else 0.2,
            lambda i: (("suite", "safety"),) if i % 10 == 0 else (),
            protected=["suite=safety"],
            seed=seed,
        )
        for seed in range(8)
    }
    decisions = {result.decision for result in told.values()}
    assert decisions == {"pass", "not_enough_evidence"}
    for result in told.values():
        gain = result.slices[0].gain
        assert gain is not None
        assert result.passed == (gain.value >= 0)


def test_a_protected_suite_that_is_missing_waits() -> None:
    """What was not measured cannot be said to be unharmed."""
    result = judge(400, lambda i: 0.2, one_of_eight, protected=["suite=safety"])
    assert result.decision == "not_enough_evidence"
    assert "protected suite=safety has 0 episodes of 20 needed" in result.reason


def test_protection_without_a_value_is_refused() -> None:
    """A protected name that fits nothing would protect nothing."""
    with pytest.raises(ConfigError, match="expected \"kind=value\", found 'safety'"):
        HeldOutGate(protected=["safety"])


@pytest.mark.parametrize(
    ("p_values", "harmed"),
    [
        ([], 0),
        ([0.04], 1),
        ([0.06], 0),
        ([0.04, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99], 1),
        ([0.04, 0.3, 0.4, 0.45], 0),
        ([0.01, 0.02, 0.03, 0.04], 4),
        ([0.001, 0.3, 0.4, 0.45], 1),
    ],
)
def test_slices_that_gain_do_not_hide_harm(p_values: list[float], harmed: int) -> None:
    """Only slices that may have lost share the false discoveries."""
    assert num_harmed(p_values, 0.1) == harmed


def test_unharmed_slices_seldom_stop_a_candidate() -> None:
    """With eight slices that did not change, one verdict in ten at most names one."""
    stopped = sum(
        any(part.is_harmed for part in judge(400, lambda i: 0, one_of_eight, seed=seed).slices)
        for seed in range(60)
    )
    assert stopped <= 10
