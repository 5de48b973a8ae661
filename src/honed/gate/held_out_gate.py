"""The gate: passes a candidate that does better than the incumbent, and nowhere worse.

By task success where a verifier has seen both do the same tasks. Else by likelihood: a model that only learned to
imitate finds successes and failures likelier, and the contrast between them tells a useful adapter from a useless one
without running the task (measured in docs/gate.md). With demonstrations alone there is only imitation to prove.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import GateResult, Interval, MetricResult, Proof, SliceResult
from honed.errors import ConfigError
from honed.gate import estimates, looks, measures, metrics, rulings, slices
from honed.gate.chance import Scored
from honed.gate.measures import CONTRAST, GAIN, MIN_VERIFIED, SUCCESS, Measure, Pair
from honed.gate.metrics import KIND, EvaluatorError, Metric
from honed.gate.rulings import Ruling
from honed.gate.slices import HARM
from honed.ports import HeldOut


class _Evidence(NamedTuple):
    """What can be gone by."""

    proof: Proof
    pairs: Sequence[Pair]
    """The episodes that decide: those that were verified, or scored."""
    episodes: list[Scored]
    """The same, by the gains that decide."""
    over_base: list[Scored] | None

    @property
    def measure(self) -> Measure:
        return {"verified": SUCCESS, "outcome": CONTRAST, "imitation": GAIN}[self.proof]


class _Guards(NamedTuple):
    """What may stop a candidate that is better on the whole."""

    rulings: list[Ruling]
    slices: tuple[SliceResult, ...] = ()
    metrics: tuple[MetricResult, ...] = ()
    over_base: Interval | None = None


class HeldOutGate:
    """Judges candidates by paired measurements on held-out episodes.

    Args:
        min_successes: scored successes below which there is not enough evidence.
        min_failures: scored failures below which only imitation can be proved.
        alpha: chance that any useless candidate passes, one-sided, over all looks at the same held-out episodes.
        slice_false_discoveries: share of the slices called harmed that are not.
        protected: `kind=value` of slices, and `metric=NAME`, that may not become worse whatever the rest does.
        metrics: measures of the user's own, by name.
        max_kl: the forgetting budget, nats per token on the probe set; None: no limit.
        seed: of relabellings; equal input gives an equal verdict.

    Raises:
        ConfigError: what is protected is no `kind=value`, or a metric that is not measured.
    """

    def __init__(
        self,
        *,
        min_successes: int = 10,
        min_failures: int = 10,
        alpha: float = 0.0075,
        slice_false_discoveries: float = 0.1,
        protected: Sequence[str] = (),
        metrics: Mapping[str, Metric] | None = None,
        max_kl: float | None = None,
        seed: int = 3407,
    ) -> None:
        self._min_successes = min_successes
        self._min_failures = min_failures
        self._alpha = alpha
        self._slice_false_discoveries = slice_false_discoveries
        self._metrics = dict(metrics or {})
        self._protected_metrics, self._protected = _protected_of(protected, self._metrics)
        self._max_kl = max_kl
        self._seed = seed

    def judge(
        self,
        held_out: Sequence[HeldOut],
        scores: Sequence[EpisodeScore],
        *,
        incumbent_id: str | None,
        now_ms: int,
        earlier: Sequence[GateResult] = (),
        probe_kl: float | None = None,
    ) -> GateResult:
        """The verdict; episodes without a scored token are left out and counted in the reason."""
        pairs = [p for p in zip(held_out, scores, strict=True) if p[1].num_tokens > 0]
        broken = rulings.broken(pairs)
        evidence = _nothing(pairs) if broken else self._evidence(pairs)
        ids = [episode.episode_id for episode, _ in evidence.pairs]
        look = looks.num_counting(ids, [s for result in earlier for s in result.sketches]) + 1
        level = looks.level(self._alpha, look)
        value = evidence.measure.estimate(evidence.episodes)
        ruling = broken or self._rule(evidence, value, level)
        guards = _Guards([])
        if ruling.decision != "fail":
            guards = self._guard(evidence, pairs)
        spent = rulings.on_forgetting(probe_kl, self._max_kl)
        decision, reason = rulings.worst([ruling, *guards.rulings, *spent])
        if ruling.p_value is not None:
            reason += f"; p {ruling.p_value:.2g} against {level:.2g} at look {look}"
        if num_unscored := len(held_out) - len(pairs):
            reason += f"; {num_unscored} episodes had no token to score"
        return GateResult(
            decision=decision,
            proof=evidence.proof,
            incumbent_id=incumbent_id,
            reason=reason,
            p_value=ruling.p_value,
            look=look,
            level=level,
            detectable=estimates.detectable(value, level) if value else None,
            over_base=guards.over_base,
            slices=guards.slices,
            metrics=guards.metrics,
            sketches=() if ruling.p_value is None else (looks.sketch(ids),),
            checked_at_ms=now_ms,
            **_figures(pairs),
        )

    def _evidence(self, pairs: Sequence[Pair]) -> _Evidence:
        """Task success where enough of it was seen, else likelihood."""
        verified = [pair for pair in pairs if measures.is_verified(pair[1])]
        if len(verified) >= MIN_VERIFIED:
            has_base = all(score.base_success is not None for _, score in verified)
            over_base = measures.wins(verified, over_base=True) if has_base else None
            return _Evidence("verified", verified, measures.wins(verified), over_base)
        has_failures = any(not episode.is_success for episode, _ in pairs)
        has_base = bool(pairs) and all(score.base is not None for _, score in pairs)
        return _Evidence(
            "outcome" if has_failures or not pairs else "imitation",
            pairs,
            measures.gains(pairs),
            measures.gains(pairs, over_base=True) if has_base else None,
        )

    def _rule(self, evidence: _Evidence, value: Interval | None, level: float) -> Ruling:
        """Whether it is better on the whole."""
        successes = [e for e in evidence.episodes if e.is_success]
        num_failures = len(evidence.episodes) - len(successes)
        missing = self._missing(len(successes), num_failures)
        if missing and evidence.proof != "verified":
            return Ruling("not_enough_evidence", missing)
        if value is None:
            few = f"{len(evidence.episodes)} held-out episodes are trials of too few tasks"
            return Ruling("not_enough_evidence", few)
        if all(e.gain == 0 for e in evidence.episodes):
            alike = f"it does as the incumbent does on all {len(evidence.episodes)} episodes"
            return Ruling("fail", alike)
        p_value = evidence.measure.better(evidence.episodes, level=level, seed=self._seed)
        match evidence.proof:
            case "verified":
                return rulings.rule_on_success(evidence.episodes, value, p_value, level)
            case "outcome":
                return rulings.rule_on_contrast(successes, num_failures, value, p_value, level)
            case "imitation":
                return rulings.rule_on_imitation(successes, value, p_value, level)

    def _missing(self, num_successes: int, num_failures: int) -> str | None:
        if num_successes < self._min_successes:
            return (
                f"{num_successes} of {self._min_successes} held-out successes needed were scored, "
                f"with {num_failures} failures"
            )
        if 0 < num_failures < self._min_failures:
            return (
                f"{num_failures} of {self._min_failures} held-out failures needed were scored, "
                f"with {num_successes} successes"
            )
        return None

    def _guard(self, evidence: _Evidence, pairs: Sequence[Pair]) -> _Guards:
        """Whether something became worse that others may not make up for."""
        held_out = [episode for episode, _ in evidence.pairs]
        proof, episodes = evidence.proof, evidence.episodes
        parts = slices.judge_parts(
            slices.parts_of(held_out, episodes),
            proof,
            false_discovery_rate=self._slice_false_discoveries,
            seed=self._seed,
        )
        suites = [
            slices.judge_protected(name, held_out, episodes, proof, seed=self._seed)
            for name in self._protected
        ]
        worse = [part for part in parts if part.is_harmed]
        found = [Ruling("fail", f"worse on {_listed(worse)}")] if worse else []
        measured: list[tuple[MetricResult, slices.Protected]] = []
        try:
            measured = metrics.measure(
                self._metrics,
                [episode for episode, _ in pairs],
                [score for _, score in pairs],
                seed=self._seed,
            )
        except EvaluatorError as error:
            found.append(Ruling("not_enough_evidence", f"an evaluator broke: {error}"))
        suites += [each for met, each in measured if met.name in self._protected_metrics]
        for suite in suites:
            if suite.fails:
                found.append(Ruling("fail", suite.fails))
            elif suite.waits:
                found.append(Ruling("not_enough_evidence", suite.waits))
        over_base = None
        if evidence.over_base is not None:
            over_base = evidence.measure.estimate(evidence.over_base)
            p_worse = evidence.measure.worse(evidence.over_base, level=HARM, seed=self._seed)
            if over_base is not None and p_worse <= HARM:
                figures = f"{rulings.shown(over_base)}, p {p_worse:.2g}"
                found.append(Ruling("fail", f"worse than the bare base: {figures}"))
        shown = slices.shown([*(suite.result for suite in suites), *parts])
        return _Guards(found, shown, tuple(result for result, _ in measured), over_base)


def _nothing(pairs: Sequence[Pair]) -> _Evidence:
    """No episode decides."""
    is_verified = any(measures.is_half_verified(score) for _, score in pairs)
    return _Evidence("verified" if is_verified else "outcome", (), [], None)


def _figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What is told of all scored episodes, whatever decides."""
    finite = [pair for pair in pairs if measures.is_finite(pair[1])]
    episodes = measures.gains(finite)
    successes = [score for episode, score in pairs if episode.is_success]
    verified = measures.wins([pair for pair in pairs if measures.is_verified(pair[1])])
    num_wins, num_losses = rulings.wins_and_losses(verified)
    before = measures.weighted([(s.num_tokens, s.incumbent) for s in successes])
    after = measures.weighted([(s.num_tokens, s.candidate) for s in successes])
    return {
        "num_successes": len(successes),
        "num_failures": len(pairs) - len(successes),
        "gain_on_successes": estimates.mean_gain([e for e in episodes if e.is_success]),
        "gain_on_failures": estimates.mean_gain([e for e in episodes if not e.is_success]),
        "contrast": estimates.contrast(episodes),
        "held_out_loss_before": None if before is None else -before,
        "held_out_loss_after": None if after is None else -after,
        "accuracy_before": measures.weighted(
            [(s.num_tokens, s.incumbent_accuracy) for s in successes]
        ),
        "accuracy_after": measures.weighted(
            [(s.num_tokens, s.candidate_accuracy) for s in successes]
        ),
        "success_gain": estimates.mean_gain(verified),
        "num_wins": num_wins,
        "num_losses": num_losses,
    }


def _protected_of(
    protected: Sequence[str], known: Mapping[str, Metric]
) -> tuple[frozenset[str], tuple[slices.Name, ...]]:
    """The protected metrics and slices."""
    names = []
    for told in protected:
        kind, equals, value = told.partition("=")
        if not (kind and equals and value):
            raise ConfigError(
                f'gate.protected: expected "kind=value", found {told!r}',
                advice='for example "suite=safety" for the episodes with that tag',
            )
        if kind == KIND and value not in known:
            raise ConfigError(
                f"gate.protected: {told} is not measured", advice=f"add {value} to gate.metrics"
            )
        names.append((kind, value))
    return (
        frozenset(value for kind, value in names if kind == KIND),
        tuple((kind, value) for kind, value in names if kind != KIND),
    )


def _listed(worse: Sequence[SliceResult]) -> str:
    """The first slices with their figures, and how many more there are."""
    told = [
        f"{part.name} ({part.num_episodes} episodes, "
        f"{rulings.shown(part.gain) if part.gain else 'of one group'}, p {part.p_worse:.2g})"
        for part in worse[:3]
    ]
    return ", ".join(told) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
