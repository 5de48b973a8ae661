"""The gate passes what learned from outcomes, refuses the rest, and says when it cannot tell."""

import math
import random
import time
from typing import Any

import pytest
from msgspec import structs

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult
from honed.gate import HeldOutGate, looks
from honed.ports import HeldOut

Measured = list[tuple[HeldOut, EpisodeScore]]


def measured(
    num_successes: int,
    num_failures: int,
    *,
    on_successes: float,
    on_failures: float,
    spread: float = 0.2,
    group_spread: float = 0.0,
    group_size: int = 1,
    seed: int = 0,
) -> Measured:
    """Scored episodes with the given mean gains, in groups that share a gain of their own."""
    rng = random.Random(seed)
    successes = [i < num_successes for i in range(num_successes + num_failures)]
    rng.shuffle(successes)
    own: dict[int, float] = {}
    pairs = []
    for i, is_success in enumerate(successes):
        group = i // group_size
        mean = (on_successes if is_success else on_failures) + own.setdefault(
            group, rng.gauss(0, group_spread)
        )
        incumbent = rng.uniform(-3, -1)
        score = EpisodeScore(
            num_tokens=rng.randint(5, 50),
            incumbent=incumbent,
            candidate=incumbent + rng.gauss(mean, spread),
        )
        episode = HeldOut(episode_id=f"e{i}", group=f"g{group}", is_success=is_success)
        pairs.append((episode, score))
    return pairs


def at_first_look(level: float) -> float:
    """The alpha over all looks that leaves the first one this level."""
    return level / looks.level(1.0, 1)


def judge(pairs: Measured, **settings: Any) -> GateResult:
    gate = HeldOutGate(**settings)
    held_out, scores = [p[0] for p in pairs], [p[1] for p in pairs]
    return gate.judge(held_out, scores, incumbent_id="air@3", now_ms=7)


def test_an_adapter_that_learned_from_outcomes_passes() -> None:
    """The gains measured for adapters trained on successes are enough with fifty of them."""
    for gains in [(0.087, -0.104), (0.118, -0.050)]:
        result = judge(measured(51, 349, on_successes=gains[0], on_failures=gains[1]))
        assert (result.decision, result.proof) == ("pass", "outcome")
        assert result.passed
        assert result.contrast is not None
        assert result.contrast.low < gains[0] - gains[1] < result.contrast.high
        assert (result.num_successes, result.num_failures) == (51, 349)
        assert (result.incumbent_id, result.checked_at_ms) == ("air@3", 7)


def test_a_blind_control_fails() -> None:
    """An adapter trained without looking at outcomes imitates failures, and is refused."""
    for gains in [(-0.007, 0.094), (0.037, 0.099)]:
        result = judge(measured(51, 349, on_successes=gains[0], on_failures=gains[1]))
        assert (result.decision, result.proof) == ("fail", "outcome")
        assert "no better" in result.reason


def test_pure_imitation_does_not_pass() -> None:
    """A gain on everything alike is no evidence of success, however large."""
    result = judge(measured(51, 349, on_successes=0.5, on_failures=0.5))
    assert result.decision != "pass"
    assert result.gain_on_successes is not None
    assert result.gain_on_successes.low > 0


def test_a_candidate_that_unlearned_everything_fails() -> None:
    """A contrast bought by finding everything less likely is refused."""
    result = judge(measured(51, 349, on_successes=-0.5, on_failures=-1.5))
    assert result.decision == "fail"
    assert "less likely" in result.reason
    assert result.p_value is not None
    assert result.p_value < 0.01


def test_a_small_loss_on_successes_is_not_enough_evidence() -> None:
    """A clear contrast with successes a little below zero neither passes nor fails."""
    pairs = measured(51, 349, on_successes=-0.02, on_failures=-0.3, seed=3)
    result = judge(pairs)
    assert result.gain_on_successes is not None
    assert result.gain_on_successes.value < 0 < result.gain_on_successes.high
    assert result.decision == "not_enough_evidence"


def test_a_difference_that_may_be_chance_waits() -> None:
    """A contrast above zero without significance is not enough evidence."""
    result = judge(measured(12, 30, on_successes=0.05, on_failures=0.0, seed=4))
    assert result.contrast is not None
    assert result.contrast.value > 0
    assert (result.decision, "may be chance" in result.reason) == ("not_enough_evidence", True)


def test_too_few_successes_wait() -> None:
    """However good it looks, nine successes are not ten."""
    result = judge(measured(9, 300, on_successes=5.0, on_failures=-5.0))
    assert result.decision == "not_enough_evidence"
    assert "9 of 10 held-out successes" in result.reason
    assert result.p_value is None


def test_demonstrations_alone_prove_imitation() -> None:
    """Without a failure the gain on successes decides, and the verdict says so."""
    better = judge(measured(40, 0, on_successes=0.2, on_failures=0.0))
    same = judge(measured(40, 0, on_successes=0.02, on_failures=0.0, seed=1))
    worse = judge(measured(40, 0, on_successes=-0.2, on_failures=0.0))
    assert [r.proof for r in (better, same, worse)] == ["imitation"] * 3
    assert [r.decision for r in (better, same, worse)] == ["pass", "not_enough_evidence", "fail"]


def test_too_few_failures_wait() -> None:
    """Where things go wrong now and then, imitation is no proof: a blind control would pass too."""
    result = judge(measured(40, 9, on_successes=0.2, on_failures=-0.2))
    assert (result.decision, result.proof) == ("not_enough_evidence", "outcome")
    assert "9 of 10 held-out failures" in result.reason


def test_a_candidate_that_answers_as_the_incumbent_is_told_so() -> None:
    """Trained on the same data again, nothing changes, and nothing passes."""
    result = judge(measured(40, 40, on_successes=0.0, on_failures=0.0, spread=0.0))
    assert (result.decision, "as the incumbent does on all 80" in result.reason) == ("fail", True)


def test_trials_of_one_task_are_no_independent_witnesses() -> None:
    """Thirty trials of two tasks, one always done and one never, prove nothing."""
    pairs = measured(30, 30, on_successes=1.0, on_failures=-1.0)
    tasks = [
        (HeldOut(episode_id=h.episode_id, group=str(h.is_success), is_success=h.is_success), s)
        for h, s in pairs
    ]
    assert judge(pairs).decision == "pass"
    assert judge(tasks).decision == "not_enough_evidence"


def test_episodes_without_tokens_are_left_out_and_counted() -> None:
    """An episode that was cut to nothing has no say."""
    pairs = measured(51, 349, on_successes=0.1, on_failures=-0.1)
    empty = EpisodeScore(num_tokens=0, candidate=0.0, incumbent=0.0)
    cut = [(h, empty if i % 2 else s) for i, (h, s) in enumerate(pairs)]
    result = judge(cut)
    assert result.num_successes + result.num_failures == 200
    assert "200 episodes had no token" in result.reason


def test_no_held_out_episodes() -> None:
    """Nothing to look at is not enough evidence."""
    result = judge([])
    assert result.decision == "not_enough_evidence"
    assert result.contrast is None
    assert result.held_out_loss_before is None


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_score_fails(value: float) -> None:
    """An evaluator that gives no number is not a pass."""
    pairs = measured(51, 349, on_successes=1.0, on_failures=-1.0)
    pairs[3] = (pairs[3][0], EpisodeScore(num_tokens=3, candidate=value, incumbent=-1.0))
    result = judge(pairs)
    assert result.decision == "fail"
    assert "1 of 400 scores" in result.reason


def test_scores_of_other_episodes_are_refused() -> None:
    """Scores that do not pair up with the held-out episodes are the caller's mistake."""
    pairs = measured(20, 20, on_successes=0.1, on_failures=0.0)
    with pytest.raises(ValueError, match="shorter"):
        HeldOutGate().judge([h for h, _ in pairs], [], incumbent_id=None, now_ms=0)


def test_the_loss_weighs_tokens() -> None:
    """The loss is the mean over all assistant tokens of the successes."""
    pairs = [
        (
            HeldOut(episode_id=str(i), group=str(i), is_success=i < 2),
            EpisodeScore(num_tokens=tokens, incumbent=before, candidate=before + 1),
        )
        for i, (tokens, before) in enumerate([(1, -4.0), (3, -2.0), (9, -9.0)])
    ]
    result = judge(pairs)
    assert (result.held_out_loss_before, result.held_out_loss_after) == (2.5, 1.5)


def test_the_verdict_is_the_same_for_the_same_seed() -> None:
    """Judging twice gives the same figures."""
    pairs = measured(51, 349, on_successes=0.05, on_failures=0.0, group_size=4)
    assert judge(pairs) == judge(pairs)
    assert judge(pairs).p_value != judge(pairs, seed=1).p_value


@pytest.mark.parametrize(("num_successes", "limit_s"), [(50, 1.0), (600, 5.0)])
def test_judging_is_quick(num_successes: int, limit_s: float) -> None:
    """400 episodes take less than a second of the core's time, 4,800 in slices at look ten a few."""
    pairs = [
        (structs.replace(episode, slices=(("tool", str(i % 9)), ("worker", str(i % 40)))), score)
        for i, (episode, score) in enumerate(
            measured(
                num_successes,
                7 * num_successes,
                on_successes=0.1,
                on_failures=-0.1,
                group_size=4,
            )
        )
    ]
    earlier = [judge(pairs)] * 9
    held_out, scores = [p[0] for p in pairs], [p[1] for p in pairs]
    started = time.process_time()
    result = HeldOutGate().judge(held_out, scores, incumbent_id=None, now_ms=0, earlier=earlier)
    assert time.process_time() - started < limit_s
    assert (result.decision, result.look) == ("pass", 10)


@pytest.mark.parametrize("group_size", [1, 2, 5])
@pytest.mark.parametrize(
    ("rounds", "most"),
    # 400 draws at 5 %: more than 34 have a chance of about 0.1 %, as more than 9 of 60
    [pytest.param(60, 9, id="short"), pytest.param(400, 34, id="long", marks=pytest.mark.long)],
)
def test_a_candidate_that_is_no_better_rarely_passes(
    group_size: int, rounds: int, most: int
) -> None:
    """With gains that have nothing to do with outcomes, about alpha of the candidates pass."""
    alpha, passed = 0.05, 0
    for seed in range(rounds):
        pairs = measured(
            20,
            40,
            on_successes=0.1,
            on_failures=0.1,
            group_spread=0.2,
            group_size=group_size,
            seed=seed,
        )
        passed += judge(pairs, alpha=at_first_look(alpha), seed=seed).passed
    assert passed <= most


def test_groups_that_end_alike_do_not_raise_false_passes() -> None:
    """Tasks that always succeed or always fail, with gains of their own, keep the error rate."""
    rounds, passed = 100, 0
    for seed in range(rounds):
        rng = random.Random(seed)
        pairs: Measured = []
        for group in range(16):
            is_success, own = rng.random() < 0.5, rng.gauss(0.1, 0.3)
            for trial in range(4):
                episode = HeldOut(
                    episode_id=f"{group}-{trial}", group=str(group), is_success=is_success
                )
                gain = rng.gauss(own, 0.05)
                pairs.append(
                    (episode, EpisodeScore(num_tokens=9, incumbent=-1.0, candidate=gain - 1.0))
                )
        passed += judge(pairs, alpha=at_first_look(0.05), seed=seed).passed
    assert passed <= 12


def test_a_planted_effect_is_found() -> None:
    """The measured effect passes in nearly every draw of fifty successes."""
    passed = sum(
        judge(
            measured(50, 350, on_successes=0.1, on_failures=-0.08, group_size=2, seed=seed)
        ).passed
        for seed in range(40)
    )
    assert passed >= 38
