"""Measures of a user's own, by entry point: a number for each held-out episode, positive where the candidate is better.

    [project.entry-points."honed.metrics"]
    brevity = "my_package.metrics:brevity"

A metric is called with the held-out episodes and their scores. It runs in the daemon, so it must be quick; what it
raises, like an answer that is not one finite number for each episode, keeps the candidate from passing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Final

from honed.domain.episode_score import EpisodeScore
from honed.domain.trained_model import MetricResult
from honed.errors import ConfigError
from honed.gate import chance, estimates
from honed.gate.chance import Scored
from honed.gate.slices import HARM, Protected, protected
from honed.ports import HeldOut

GROUP: Final = "honed.metrics"
KIND: Final = "metric"
"""`metric=NAME` in `gate.protected`."""

Metric = Callable[[Sequence[HeldOut], Sequence[EpisodeScore]], Sequence[float]]


class EvaluatorError(Exception):
    """An evaluator broke; what it should have shown is not known."""


def load_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of these names.

    Raises:
        ConfigError: there is none of that name, more than one, or it cannot be imported.
    """
    return {name: _load(name) for name in names}


def _load(name: str) -> Metric:
    found = metadata.entry_points(group=GROUP, name=name)
    if len(found) != 1:
        known = ", ".join(sorted({e.name for e in metadata.entry_points(group=GROUP)})) or "none"
        raise ConfigError(
            f"gate.metrics: {len(found)} entry points {GROUP} are called {name}: expected one",
            advice=f"install the package that has it; known here: {known}",
        )
    try:
        metric: Metric = next(iter(found)).load()
    except Exception as error:  # whatever its module does when it is imported
        raise ConfigError(
            f"gate.metrics: {name} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return metric


def measure(
    metrics: Mapping[str, Metric],
    held_out: Sequence[HeldOut],
    scores: Sequence[EpisodeScore],
    *,
    seed: int,
) -> list[tuple[MetricResult, Protected]]:
    """What each metric shows, by itself and as a protected one.

    Raises:
        EvaluatorError: a metric broke.
    """
    return [_measure(name, each, held_out, scores, seed) for name, each in metrics.items()]


def _measure(
    name: str,
    metric: Metric,
    held_out: Sequence[HeldOut],
    scores: Sequence[EpisodeScore],
    seed: int,
) -> tuple[MetricResult, Protected]:
    try:
        values = [float(value) for value in metric(held_out, scores)]
    except Exception as error:  # a user's code, whatever it raises
        raise EvaluatorError(f"metric {name}: {type(error).__name__}: {error}"[:300]) from error
    num_finite = sum(map(math.isfinite, values))
    if len(values) != len(held_out) or num_finite < len(values):
        raise EvaluatorError(
            f"metric {name} gave {num_finite} finite numbers: expected {len(held_out)}, "
            "one for each episode"
        )
    episodes = [
        Scored(episode.group, episode.is_success, value)
        for episode, value in zip(held_out, values, strict=True)
    ]
    value = estimates.mean_gain(episodes)
    mirrored = [e._replace(gain=-e.gain) for e in episodes]
    p_worse = chance.gain_p_value(mirrored, level=HARM, seed=seed)
    told = f"{KIND}={name}"
    return (
        MetricResult(name=name, gain=value, p_worse=p_worse),
        protected(told, len(episodes), value, p_worse),
    )
