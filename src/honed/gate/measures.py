"""What a candidate is measured by: task success, the outcome contrast, or the gain on demonstrations.

Each measure gives a value with its interval and a p-value for "better"; "worse" is the same of mirrored gains.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import Interval, Proof
from honed.gate import chance, estimates
from honed.gate.chance import Scored
from honed.ports import HeldOut

MIN_VERIFIED: Final = 20
"""Held-out episodes that both have done over, below which their success decides nothing."""
MIN_EITHER: Final = 5
"""Successes, and failures, below which a part of the episodes shows no contrast."""

Pair = tuple[HeldOut, EpisodeScore]


class PValue(Protocol):
    """The one-sided p-value of "better"."""

    def __call__(self, episodes: Sequence[Scored], *, level: float, seed: int) -> float:
        """Compared with `level`; `seed` is that of random relabellings."""


class Measure(NamedTuple):
    """What tells better from worse."""

    estimate: Callable[[Sequence[Scored]], Interval | None]
    better: PValue

    def worse(self, episodes: Sequence[Scored], *, level: float, seed: int) -> float:
        """The one-sided p-value of "worse"."""
        mirrored = [e._replace(gain=-e.gain) for e in episodes]
        return self.better(mirrored, level=level, seed=seed)


def _wins_p_value(episodes: Sequence[Scored], *, level: float, seed: int) -> float:
    """Exact, so neither level nor seed matters."""
    del level, seed
    net: dict[str, int] = {}
    for episode in episodes:
        net[episode.group] = net.get(episode.group, 0) + round(episode.gain)
    return chance.wins_p_value(list(net.values()))


SUCCESS: Final = Measure(estimates.mean_gain, _wins_p_value)
CONTRAST: Final = Measure(estimates.contrast, chance.contrast_p_value)
GAIN: Final = Measure(estimates.mean_gain, chance.gain_p_value)


def measure_of(proof: Proof, episodes: Sequence[Scored]) -> Measure | None:
    """What measures a part of the episodes, where the whole proves `proof`; None when nothing can."""
    if proof == "verified":
        return SUCCESS
    num_successes = sum(e.is_success for e in episodes)
    num_failures = len(episodes) - num_successes
    if proof == "imitation" or (num_failures == 0 and num_successes):
        return GAIN
    return CONTRAST if min(num_successes, num_failures) >= MIN_EITHER else None


def gains(pairs: Sequence[Pair], *, over_base: bool = False) -> list[Scored]:
    """How much likelier the candidate finds each episode than the incumbent, or than the bare base."""
    return [
        Scored(
            episode.group,
            episode.is_success,
            score.candidate - (score.base if over_base else score.incumbent),  # type: ignore[operator]
        )
        for episode, score in pairs
    ]


def wins(pairs: Sequence[Pair], *, over_base: bool = False) -> list[Scored]:
    """Whether only the candidate did each task (1), only the other one (-1), or both or none (0)."""
    return [
        Scored(
            episode.group,
            episode.is_success,
            float(bool(score.candidate_success))
            - float(bool(score.base_success if over_base else score.incumbent_success)),
        )
        for episode, score in pairs
    ]


def is_verified(score: EpisodeScore) -> bool:
    """Whether both were seen to do the task or not."""
    return score.candidate_success is not None and score.incumbent_success is not None


def is_half_verified(score: EpisodeScore) -> bool:
    """Whether one of them was, which says that the evaluation broke off."""
    return (score.candidate_success is None) != (score.incumbent_success is None)


def is_finite(score: EpisodeScore) -> bool:
    """Whether all log-probabilities are numbers."""
    values = (score.candidate, score.incumbent, 0.0 if score.base is None else score.base)
    return all(map(math.isfinite, values))


def weighted(values: Sequence[tuple[int, float | None]]) -> float | None:
    """The mean over all tokens; None without any, or where a value is missing or no finite number."""
    num_tokens = sum(count for count, _ in values)
    known = [(count, value) for count, value in values if value is not None]
    if not num_tokens or len(known) < len(values):
        return None
    mean = math.fsum(count * value for count, value in known) / num_tokens
    return mean if math.isfinite(mean) else None
