"""The order to serve another adapter: is it served already, which way is it exchanged, what is told of it."""

from typing import Final

from anyio import to_thread

from honed import log
from honed.domain.serving import AdapterRef, Switched, SwitchOrder
from honed.errors import AdapterNotFoundError, ApplyError
from honed.gateway import strategy, swap
from honed.gateway.backend import Backend
from honed.gateway.lane import Lane
from honed.gateway.strategy import Choice

_WAYS: Final = {"blue_green": swap.blue_green, "hold": swap.hold, "in_place": swap.in_place}


async def switch(lane: Lane, order: SwitchOrder) -> Switched:
    """Serve the adapter of `order` instead of what is served; returns when the old server has
    ended.

    Raises:
        AdapterNotFoundError: its files are not there, or have been changed; no server was started.
        ApplyError: it could not be proved to serve; the former one serves on, or again.
    """
    target = target_of(order)
    async with lane.switching():
        if lane.backend is not None and is_served(lane.backend, target):
            return Switched(model_id=order.model_id, seconds={})
        return await _exchange(lane, target, await choose_for(lane, target))


async def renew(lane: Lane) -> Switched:
    """Serve what is served from new servers, where they are started otherwise from now on; what is tried beside the
    live version comes up again when this has returned.

    Raises:
        ApplyError: it could not be proved to serve; the former one serves on, or again.
    """
    async with lane.switching():
        await lane.settled()
        trial = lane.arms.candidate
        before = trial.backend if trial is not None else None
        if trial is None or before is None or not _is_otherwise(lane, before):
            switched = await _renew_live(lane)
            await lane.servers.others_ended()
            return switched
        trial.step_aside()
        try:
            await lane.release(before)
            switched = await _renew_live(lane)
            await lane.servers.others_ended()
            return switched
        finally:
            trial.tell()


async def _renew_live(lane: Lane) -> Switched:
    if lane.backend is None:
        return Switched(model_id=None, seconds={})
    if not _is_otherwise(lane, lane.backend):
        return Switched(model_id=lane.backend.model_id, seconds={})
    way = await choose(lane)
    if way.strategy == "in_place":
        way = Choice("hold", "a server cannot be made smaller while it runs")
    return await _exchange(lane, lane.adapter, way)  # its server may have died just now


def _is_otherwise(lane: Lane, backend: Backend) -> bool:
    """Whether it would be started otherwise now."""
    return backend.server.plan.section != lane.servers.section


async def _exchange(lane: Lane, target: AdapterRef | None, way: Choice) -> Switched:
    model_id = target.model_id if target else None
    logger = log.get(scenario=lane.scenario, model_id=model_id)
    previous = lane.backend.model_id if lane.backend else None
    logger.info(log.SWITCH_STARTED, previous=previous, strategy=way.strategy, reason=way.reason)
    try:
        phases = await _WAYS[way.strategy](lane, target)
    except ApplyError as error:
        logger.error(log.SWITCH_FAILED, error=str(error), kind=type(error).__name__)
        raise
    seconds = {phase: round(each, 3) for phase, each in phases.items()}
    logger.info(log.SWITCH_DONE, seconds=seconds, strategy=way.strategy)
    return Switched(model_id=model_id, seconds=seconds, strategy=way.strategy, reason=way.reason)


def target_of(order: SwitchOrder) -> AdapterRef | None:
    """What an order wants served.

    Raises:
        AdapterNotFoundError: it does not say where it is.
    """
    if order.model_id is None:
        return None
    if order.adapter_path is None:
        raise AdapterNotFoundError(f"the order to serve {order.model_id} names no adapter_path")
    return AdapterRef(order.model_id, order.adapter_path, order.digest)


def is_served(backend: Backend, target: AdapterRef | None) -> bool:
    """Whether it is there already; a number that was given twice is told apart by the digest."""
    served = backend.adapter
    if served is None or target is None:
        return served is target
    digests = {served.digest, target.digest} - {None}
    return served.model_id == target.model_id and len(digests) < 2


async def choose_for(lane: Lane, adapter: AdapterRef | None) -> Choice:
    """As `choose`; what a shared server has at hand takes no other."""
    at_hand = lane.servers.at_hand(adapter)
    return Choice("blue_green", at_hand) if at_hand else await choose(lane)


async def choose(lane: Lane) -> Choice:
    """The way in which this lane would get another server now."""
    if lane.backend is None:
        return Choice("blue_green", "nothing is served now")
    server = lane.backend.server
    if lane.section.has_versions_beside:
        return Choice("blue_green", "the server has several adapters at a time, under names")
    if server.is_external:
        return Choice("in_place", "the server is the operator's own")
    measured = (lane.servers.section, server.plan.base_gguf, server.pid)
    headrooms = await to_thread.run_sync(strategy.measure, *measured)
    return strategy.choose(lane.section.strategy, headrooms)
