"""Where a verifier saw both do the same tasks, their success decides."""

import random
from typing import Any

import pytest

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate
from honed.ports import HeldOut


def judge(
    wins: int,
    losses: int,
    both: int,
    *,
    trials: int = 1,
    likelihood: float = 0.0,
    base: bool | None = None,
    **settings: Any,
) -> GateResult:
    """Tasks that only the candidate did, only the incumbent, and both did."""
    told = [(True, False)] * wins + [(False, True)] * losses + [(True, True)] * both
    pairs = [
        (
            HeldOut(episode_id=f"e{i}", group=f"g{i // trials}", is_success=i % 2 == 0),
            EpisodeScore(
                num_tokens=5,
                candidate=-2 + (likelihood if i % 2 == 0 else -likelihood),
                incumbent=-2,
                candidate_success=candidate,
                incumbent_success=incumbent,
                base_success=base,
            ),
        )
        for i, (candidate, incumbent) in enumerate(told)
    ]
    random.Random(1).shuffle(pairs)
    held_out, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return HeldOutGate(**settings).judge(held_out, scores, incumbent_id=None, now_ms=0)


def test_more_tasks_done_passes() -> None:
    """45 tasks won against 15 lost of 300 are no chance, and the verdict says what it rests on."""
    result = judge(45, 15, 240)
    assert (result.decision, result.proof) == ("pass", "verified")
    assert (result.num_wins, result.num_losses) == (45, 15)
    assert result.success_gain is not None
    assert result.success_gain.value == pytest.approx(0.1)
    assert result.p_value == pytest.approx(6.75e-5, rel=0.01)
    assert "45 tasks won and 15 lost of 300" in result.reason


def test_a_few_more_tasks_done_may_be_chance() -> None:
    """A lead of ten tasks among sixty waits for more evidence."""
    assert judge(35, 25, 240).decision == "not_enough_evidence"


def test_fewer_tasks_done_fails_whatever_the_likelihood() -> None:
    """An adapter that finds successes likelier and does fewer tasks is refused."""
    result = judge(20, 30, 250, likelihood=1.0)
    assert (result.decision, result.proof) == ("fail", "verified")
    assert result.contrast is not None
    assert result.contrast.low > 0


def test_trials_of_one_task_win_together() -> None:
    """Forty trials of four tasks are four wins."""
    assert judge(40, 0, 40).passed
    assert judge(40, 0, 40, trials=10).decision == "not_enough_evidence"


def test_a_few_verified_episodes_do_not_decide() -> None:
    """Below twenty the likelihood of all decides, as if nobody had looked."""
    assert judge(19, 0, 0, likelihood=1.0).proof == "outcome"


def test_an_evaluation_that_broke_off_is_not_a_pass() -> None:
    """Where only one of the two was seen, nothing passes, however good the rest looks."""
    pairs = [
        (
            HeldOut(episode_id=f"e{i}", group=f"g{i}", is_success=True),
            EpisodeScore(
                num_tokens=5,
                candidate=-1,
                incumbent=-2,
                candidate_success=True,
                incumbent_success=None if i == 3 else False,
            ),
        )
        for i in range(100)
    ]
    held_out, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    result = HeldOutGate().judge(held_out, scores, incumbent_id=None, now_ms=0)
    assert (result.decision, result.proof) == ("not_enough_evidence", "verified")
    assert "an evaluator broke: of 1 of 100 episodes" in result.reason
    assert result.sketches == ()


def test_better_than_the_incumbent_but_worse_than_the_base_fails() -> None:
    """An incumbent that does badly is no excuse to serve less than the bare base."""
    assert judge(60, 10, 0, base=False).passed
    result = judge(60, 10, 0, base=True)
    assert result.decision == "fail"
    assert "worse than the bare base" in result.reason
    assert result.over_base is not None


def test_the_verdict_says_what_it_could_have_found() -> None:
    """With 300 episodes of which 60 differ, ten points can be told and five cannot."""
    result = judge(35, 25, 240)
    assert result.detectable is not None
    assert 0.07 < result.detectable < 0.11
