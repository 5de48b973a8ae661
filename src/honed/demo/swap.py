"""The requests across a swap: when the answers changed hands, and what that cost."""

from collections.abc import Sequence

from honed.demo.result import SwapFigures
from honed.demo.statistics import quantile
from honed.demo.swarm import Call


def flip_at(calls: Sequence[Call], model_id: str) -> float | None:
    """When the first answer of `model_id` came, Unix seconds; None if none did."""
    return min((call.at_s for call in calls if call.model == model_id), default=None)


def swap_figures(calls: Sequence[Call], model_id: str) -> SwapFigures:
    """Latency before and after the swap to `model_id`, by who answered."""
    old = [call.latency_ms for call in calls if call.model not in (None, model_id)]
    new = [call.latency_ms for call in calls if call.model == model_id]
    flip = flip_at(calls, model_id)
    near = [call.latency_ms for call in calls if flip is not None and abs(call.at_s - flip) < 1]
    return SwapFigures(
        requests=len(calls),
        p50_before_ms=quantile(old, 0.5),
        p99_before_ms=quantile(old, 0.99),
        p50_after_ms=quantile(new, 0.5),
        p99_after_ms=quantile(new, 0.99),
        slowest_near_flip_ms=max(near, default=0.0),
    )
