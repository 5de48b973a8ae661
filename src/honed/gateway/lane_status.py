"""What `GET /v1/serving` says of a lane."""

from honed.domain.serving import LaneStatus
from honed.gateway.lane import Lane


def status_of(lane: Lane) -> LaneStatus:
    """What the lane is served by, and how it does."""
    backend = lane.backend
    adapter = lane.adapter if backend is None and lane.is_parked else backend and backend.adapter
    return LaneStatus(
        state=lane.state,
        model_id=adapter.model_id if adapter else None,
        is_serving=backend is not None or lane.is_parked,
        address=str(backend.address) if backend else None,
        in_flight=backend.in_flight if backend else 0,
        requests=lane.requests,
        failed=lane.failed,
        refused=lane.refused,
        held=lane.waiting.num,
        captured=lane.captured.counts(),
        error=lane.error,
        is_compared=backend is not None and backend.facts is not None,
        base_problem=lane.base_problem,
        candidate=lane.arms.candidate.status() if lane.arms.candidate else None,
        is_parked=lane.is_parked,
        at_hand=lane.servers.residents,
    )
