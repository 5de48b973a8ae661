"""Between two canaries: the gateway tries nothing that nobody watches, and no model is forgotten that waited."""

from honed.domain.trained_model import TrainedModel
from honed.loop.in_service import InService, unproved
from honed.ports import CanaryApplier, Store


async def take_back(store: Store, applier: CanaryApplier, scenario: str) -> None:
    """Withdraw what the gateway tries and the store knows nothing of: an order that it has carried out after
    nobody waited for its answer any more. It would have its share for ever, and keep others from being tried.
    """
    if not await store.canaries.list(scenario, limit=1):
        return
    lane = await applier.lane()
    if lane.candidate is not None:
        await applier.withdraw(await store.get_model(lane.candidate.model_id))


async def next_one(store: Store, in_service: InService, scenario: str) -> TrainedModel | None:
    """The newest model that came while another one was tried, was not tried itself, and was measured against what
    serves now; None where there is none.
    """
    former = await store.canaries.list(scenario)
    if not former:
        return None
    current = await in_service.current()
    current_id = current.id if current else None
    tried = {each.model_id for each in former}
    for model in await store.list_models(scenario):
        if model.created_at_ms <= former[0].started_at_ms or model.id == former[0].model_id:
            return None
        if model.id not in tried and unproved(model, current_id) is None:
            return model
    return None
