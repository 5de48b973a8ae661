"""What the gate promises of useless, harmful and useful candidates; benchmarks/gate.py has figures with intervals."""

import random
from collections.abc import Callable, Sequence

import pytest

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate
from honed.ports import HeldOut

pytestmark = pytest.mark.parametrize(
    ("is_verified", "count"),
    [
        pytest.param(True, 40, id="success"),
        pytest.param(False, 40, id="contrast"),
        pytest.param(True, 400, id="success-long", marks=pytest.mark.long),
        pytest.param(False, 400, id="contrast-long", marks=pytest.mark.long),
    ],
)


def held_out_set(size: int) -> list[HeldOut]:
    """Half successes, in eight slices."""
    return [
        HeldOut(
            episode_id=f"e{i}",
            group=f"g{i}",
            is_success=i // 8 % 2 == 0,
            slices=(("tool", str(i % 8)),),
        )
        for i in range(size)
    ]


def judged(
    is_verified: bool,
    rng: random.Random,
    size: int,
    gain: Callable[[int], float],
    earlier: Sequence[GateResult] = (),
) -> GateResult:
    """A fifth of the episodes discordant, for the better by `gain` more often than for the worse."""
    held_out, scores = held_out_set(size), []
    for i, episode in enumerate(held_out):
        drawn = rng.random()
        change = (1 if drawn < 0.1 + gain(i) / 2 else -1) if drawn < 0.2 else 0
        towards = change if episode.is_success else -change
        moved = towards * rng.gauss(0.3, 0.1) + rng.gauss(0, 0.02)
        scores.append(
            EpisodeScore(
                num_tokens=20,
                candidate=-2 + moved,
                incumbent=-2,
                candidate_success=change >= 0 if is_verified else None,
                incumbent_success=change <= 0 if is_verified else None,
            )
        )
    return HeldOutGate().judge(held_out, scores, incumbent_id=None, now_ms=0, earlier=earlier)


def test_useless_candidates_do_not_pass_in_ten_looks(is_verified: bool, count: int) -> None:
    """One in a hundred at most gets through, though ten are tried on the same held-out episodes."""
    passed = 0
    for seed in range(count // 2):
        rng, seen = random.Random(seed), list[GateResult]()
        for _ in range(10):
            seen.append(judged(is_verified, rng, 300, lambda i: 0.0, seen))
        assert [verdict.look for verdict in seen] == list(range(1, 11))
        passed += any(verdict.passed for verdict in seen)
    assert passed <= count // 2 // 100


def test_ten_points_lost_in_one_slice_are_not_outvoted(is_verified: bool, count: int) -> None:
    """Seven slices that gain ten points do not carry the eighth through."""
    stopped = sum(
        not judged(
            is_verified, random.Random(seed), 1_600, lambda i: -0.1 if i % 8 == 5 else 0.1
        ).passed
        for seed in range(count)
    )
    assert stopped >= 0.87 * count


def test_ten_points_gained_pass_at_the_first_look(is_verified: bool, count: int) -> None:
    """300 episodes are enough."""
    passed = sum(
        judged(is_verified, random.Random(seed), 300, lambda i: 0.1).passed for seed in range(count)
    )
    assert passed >= 0.8 * count
