"""What each measure must show: the verdict on the whole, in one sentence with its figures."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from honed.domain.trained_model import Decision, Interval
from honed.gate import estimates, measures
from honed.gate.chance import Scored
from honed.gate.measures import Pair

_SEVERITY: Final = {"pass": 0, "not_enough_evidence": 1, "fail": 2}


class Ruling(NamedTuple):
    """One decision and why; the gravest one decides."""

    decision: Decision
    reason: str
    p_value: float | None = None


def rule_on_success(
    episodes: Sequence[Scored], value: Interval, p_value: float, level: float
) -> Ruling:
    """Pass: it did tasks that the incumbent did not, more often than the other way beyond chance."""
    num_wins, num_losses = wins_and_losses(episodes)
    figures = (
        f"{num_wins} tasks won and {num_losses} lost of {len(episodes)}, success {shown(value)}"
    )
    if value.value <= 0:
        return Ruling("fail", f"no more tasks done: {figures}", p_value)
    if p_value <= level:
        return Ruling("pass", f"more tasks done: {figures}", p_value)
    return Ruling("not_enough_evidence", f"may be chance: {figures}", p_value)


def rule_on_contrast(
    successes: Sequence[Scored],
    num_failures: int,
    contrast: Interval,
    p_value: float,
    level: float,
) -> Ruling:
    """Pass: the contrast is above zero beyond chance, and successes did not become less likely.

    The second condition asks for a point estimate of zero or more: a candidate may not buy its contrast by finding
    everything less likely, failures most of all.
    """
    gain = estimates.mean_gain(successes)
    assert gain is not None, "a contrast with an interval has successes of two groups"
    figures = (
        f"contrast {shown(contrast)}, gain on {len(successes)} successes {shown(gain)}, "
        f"{num_failures} failures, nats per token"
    )
    if contrast.value <= 0:
        return Ruling("fail", f"no better at telling outcomes: {figures}", p_value)
    if gain.high < 0:
        return Ruling("fail", f"successes became less likely: {figures}", p_value)
    if p_value <= level and gain.value >= 0:
        return Ruling("pass", f"successes gained over failures: {figures}", p_value)
    return Ruling("not_enough_evidence", f"may be chance: {figures}", p_value)


def on_forgetting(probe_kl: float | None, max_kl: float | None) -> list[Ruling]:
    """What stands against a candidate that moved the model farther than the budget allows; empty when nothing does."""
    if max_kl is None:
        return []
    if probe_kl is None:
        reason = "how far it moved the model was not measured, and gate.max_kl limits it"
        return [Ruling("not_enough_evidence", reason)]
    if probe_kl <= max_kl:
        return []
    told = f"{probe_kl:.3g} nats per token from the base on the probe set, at most {max_kl:g}"
    return [Ruling("fail", f"forgets too much: {told}")]


def rule_on_imitation(
    successes: Sequence[Scored], gain: Interval, p_value: float, level: float
) -> Ruling:
    """Pass: demonstrations became likelier beyond chance; without a failure no more can be proved."""
    figures = (
        f"gain on {len(successes)} successes {shown(gain)} nats per token, "
        "with no failure to compare with"
    )
    if gain.value <= 0:
        return Ruling("fail", f"successes did not gain: {figures}", p_value)
    if p_value <= level:
        return Ruling("pass", f"successes became likelier: {figures}", p_value)
    return Ruling("not_enough_evidence", f"may be chance: {figures}", p_value)


def broken(pairs: Sequence[Pair]) -> Ruling | None:
    """Why nothing can be gone by: what measured them broke. None when it did not."""
    if num := sum(not measures.is_finite(score) for _, score in pairs):
        return Ruling("fail", f"{num} of {len(pairs)} scores are not finite numbers")
    if num := sum(measures.is_half_verified(score) for _, score in pairs):
        told = f"an evaluator broke: of {num} of {len(pairs)} episodes only one success is known"
        return Ruling("not_enough_evidence", told)
    return None


def worst(rulings: Sequence[Ruling]) -> tuple[Decision, str]:
    """The gravest decision, and all reasons with the gravest first."""
    ordered = sorted(rulings, key=lambda ruling: -_SEVERITY[ruling.decision])
    return ordered[0].decision, "; ".join(ruling.reason for ruling in ordered)


def wins_and_losses(episodes: Sequence[Scored]) -> tuple[int, int]:
    """Episodes on which only the candidate did the task, and only the incumbent."""
    return sum(e.gain > 0 for e in episodes), sum(e.gain < 0 for e in episodes)


def shown(interval: Interval) -> str:
    """The value with its interval."""
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
