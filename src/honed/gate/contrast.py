"""The gate: passes a candidate that found held-out successes likelier, and failures less so.

A model that only learned to imitate finds both likelier. The contrast between them tells a useful
adapter from a useless one without running the task (measured in docs/gate.md).
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from honed.domain.job import EpisodeScore
from honed.domain.trained_model import Decision, GateResult, Interval, Proof
from honed.errors import ConfigError
from honed.gate import statistics
from honed.gate.statistics import Estimates, Scored
from honed.ports import HeldOut

RESAMPLES: Final = 1_000
"""For the intervals, which are shown and only break ties: fewer than for the p-value suffice."""


class _Ruling(NamedTuple):
    decision: Decision
    proof: Proof
    reason: str
    p_value: float | None = None


class OutcomeGate:
    """Judges paired scores of held-out episodes.

    Args:
        min_successes: scored successes below which there is not enough evidence.
        min_failures: scored failures below which only imitation can be proved.
        alpha: chance of passing a candidate whose gains have nothing to do with outcomes, one-sided.
        permutations: of each test; the smallest p-value is 1 / (permutations + 1).
        seed: of permutations and resamples; equal input gives an equal verdict.

    Raises:
        ConfigError: too few permutations for `alpha`; no candidate could ever pass.
    """

    def __init__(
        self,
        *,
        min_successes: int = 10,
        min_failures: int = 10,
        alpha: float = 0.01,
        permutations: int = 2_000,
        seed: int = 3407,
    ) -> None:
        if 1 / (permutations + 1) > alpha:
            raise ConfigError(
                f"gate: {permutations} permutations cannot show a p-value of {alpha:g}: "
                f"expected at least {math.ceil(1 / alpha) - 1}"
            )
        self._min_successes = min_successes
        self._min_failures = min_failures
        self._alpha = alpha
        self._permutations = permutations
        self._seed = seed

    def judge(
        self,
        held_out: Sequence[HeldOut],
        scores: Sequence[EpisodeScore],
        *,
        incumbent_id: str | None,
        now_ms: int,
    ) -> GateResult:
        """The verdict; episodes without a scored token are left out and counted in the reason."""
        pairs = [
            (episode, score)
            for episode, score in zip(held_out, scores, strict=True)
            if score.num_tokens > 0
        ]
        num_unscored = len(held_out) - len(pairs)
        num_successes = sum(episode.is_success for episode, _ in pairs)
        num_failures = len(pairs) - num_successes
        estimates = Estimates(None, None, None)
        if num_broken := sum(not _is_finite(score) for _, score in pairs):
            ruling = _Ruling(
                "fail",
                "outcome",
                f"{num_broken} of {len(pairs)} scores are not finite numbers",
            )
        else:
            episodes = [
                Scored(episode.group, episode.is_success, score.candidate - score.incumbent)
                for episode, score in pairs
            ]
            resamples = min(RESAMPLES, self._permutations)
            estimates = statistics.estimate(episodes, resamples=resamples, seed=self._seed)
            ruling = self._rule(episodes, estimates, num_successes, num_failures)
        unscored = f"; {num_unscored} episodes had no token to score" if num_unscored else ""
        successes = [score for episode, score in pairs if episode.is_success]
        return GateResult(
            decision=ruling.decision,
            proof=ruling.proof,
            incumbent_id=incumbent_id,
            reason=ruling.reason + unscored,
            num_successes=num_successes,
            num_failures=num_failures,
            gain_on_successes=estimates.gain_on_successes,
            gain_on_failures=estimates.gain_on_failures,
            contrast=estimates.contrast,
            p_value=ruling.p_value,
            held_out_loss_before=_loss([(s.num_tokens, s.incumbent) for s in successes]),
            held_out_loss_after=_loss([(s.num_tokens, s.candidate) for s in successes]),
            checked_at_ms=now_ms,
        )

    def _rule(
        self,
        episodes: Sequence[Scored],
        estimates: Estimates,
        num_successes: int,
        num_failures: int,
    ) -> _Ruling:
        gain, contrast = estimates.gain_on_successes, estimates.contrast
        if num_successes < self._min_successes or gain is None:
            proof: Proof = "outcome" if num_failures >= self._min_failures else "imitation"
            return _Ruling(
                "not_enough_evidence",
                proof,
                f"{num_successes} of {self._min_successes} held-out successes needed were scored, "
                f"with {num_failures} failures",
            )
        if num_failures == 0 or contrast is None:
            return self._rule_on_imitation(episodes, gain)
        if num_failures < self._min_failures:
            return _Ruling(
                "not_enough_evidence",
                "outcome",
                f"{num_failures} of {self._min_failures} held-out failures needed were scored, "
                f"gain on {num_successes} successes {_shown(gain)} nats per token",
            )
        return self._rule_on_outcome(episodes, gain, contrast, num_failures)

    def _rule_on_outcome(
        self, episodes: Sequence[Scored], gain: Interval, contrast: Interval, num_failures: int
    ) -> _Ruling:
        """Pass: the contrast is above zero beyond chance, and successes did not become less likely.

        The second condition asks for a point estimate of zero or more: a candidate may not buy
        its contrast by finding everything less likely, failures most of all.
        """
        p_value = statistics.contrast_p_value(
            episodes, permutations=self._permutations, seed=self._seed
        )
        figures = (
            f"contrast {_shown(contrast)}, p {p_value:.2g} against {self._alpha:g}, "
            f"gain on {len(episodes) - num_failures} successes {_shown(gain)} "
            f"and {num_failures} failures, nats per token"
        )
        if contrast.value == gain.value == 0:
            return _Ruling(
                "fail", "outcome", f"it answers as the incumbent does: {figures}", p_value
            )
        if contrast.value <= 0:
            return _Ruling("fail", "outcome", f"no better at telling outcomes: {figures}", p_value)
        if gain.value < 0 and gain.high < 0:
            return _Ruling("fail", "outcome", f"successes became less likely: {figures}", p_value)
        if p_value <= self._alpha and gain.value >= 0:
            return _Ruling("pass", "outcome", f"successes gained over failures: {figures}", p_value)
        return _Ruling("not_enough_evidence", "outcome", f"may be chance: {figures}", p_value)

    def _rule_on_imitation(self, episodes: Sequence[Scored], gain: Interval) -> _Ruling:
        """Pass: demonstrations became likelier beyond chance; without a failure no more can be proved."""
        p_value = statistics.gain_p_value(
            episodes, permutations=self._permutations, seed=self._seed
        )
        figures = (
            f"gain on {len(episodes)} successes {_shown(gain)} nats per token, "
            f"p {p_value:.2g} against {self._alpha:g}, with no failure to compare with"
        )
        if gain.value <= 0:
            return _Ruling("fail", "imitation", f"successes did not gain: {figures}", p_value)
        if p_value <= self._alpha:
            return _Ruling("pass", "imitation", f"successes became likelier: {figures}", p_value)
        return _Ruling("not_enough_evidence", "imitation", f"may be chance: {figures}", p_value)


def _is_finite(score: EpisodeScore) -> bool:
    return math.isfinite(score.candidate) and math.isfinite(score.incumbent)


def _loss(scored: Sequence[tuple[int, float]]) -> float | None:
    """Mean loss over all tokens; None without any, or where a score is not finite."""
    num_tokens = sum(count for count, _ in scored)
    if not num_tokens:
        return None
    loss = -sum(count * mean for count, mean in scored) / num_tokens
    return loss if math.isfinite(loss) else None


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
