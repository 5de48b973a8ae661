"""Orders about a version that is tried beside the live one: it comes, is promoted, is withdrawn.

The live version answers whatever is not the candidate's, and everything whenever the candidate has
no server. A candidate that is promoted keeps its server: nothing is started, nothing is held.
"""

import time
from typing import Final

import anyio
from anyio.abc import TaskGroup

from honed import log
from honed.domain.serving import CanaryOrder, CandidateStatus, Switched, SwitchOrder
from honed.errors import ApplyError
from honed.gateway.candidate import FAULTS_MAX, Candidate
from honed.gateway.keeping_up import bring_up
from honed.gateway.lane import Lane
from honed.gateway.launch import warn_if_unsure
from honed.gateway.swap import former_answers, prove
from honed.gateway.switch import choose_for, is_served, switch, target_of

ROOM_LOOK_S: Final = 5.0
"""How often a candidate that does not fit looks whether there is room now."""


async def begin(lane: Lane, order: CanaryOrder, tasks: TaskGroup) -> CandidateStatus:
    """Try a version: it has its share when this returns. It is kept up from `tasks`; told of again,
    it has another share from now on.

    Raises:
        AdapterNotFoundError: its files are not there, or have been changed; no server was started.
        ApplyError: it could not be proved to serve, is live already, or another one is tried.
    """
    async with lane.switching():
        before = lane.arms.candidate
        if before is not None and not before.is_withdrawn:
            _see_that_it_is(before, order.model_id, lane)
            if not before.is_of(order):
                raise ApplyError(
                    f"{lane.scenario}: {order.model_id} is tried already, with other files",
                    advice="withdraw it first",
                )
            before.order = order
            await lane.remember()
            return before.status()
        if lane.adapter is not None and lane.adapter.model_id == order.model_id:
            raise ApplyError(f"{lane.scenario}: {order.model_id} is live already")
        if lane.is_parked:
            async with lane.starting():
                if lane.backend is None:
                    await bring_up(lane)
        if lane.backend is None:
            raise ApplyError(
                f"{lane.scenario}: nothing is live to try {order.model_id} beside: the lane is {lane.state}",
                advice="try again when it is active",
            )
        candidate = Candidate(lane.scenario, order)
        way = await choose_for(lane, candidate.adapter)
        if way.strategy != "blue_green":
            raise ApplyError(
                f"{lane.scenario}: nothing can be tried beside the live version: {way.reason}",
                advice="a switch needs one server only; serve.strategy = 'blue_green' asks for no room",
            )
        lane.arms.candidate = candidate
        logger = log.get(scenario=lane.scenario, model_id=order.model_id)
        try:
            seconds = await _come_up(lane, candidate)
        except BaseException as error:
            lane.arms.candidate = before
            lane.waiting.tell()
            logger.error(log.CANARY_FAILED, error=str(error), kind=type(error).__name__)
            raise
        logger.info(
            log.CANARY_STARTED, share=order.share, is_shadow=order.is_shadow, seconds=seconds
        )
        tasks.start_soon(keep_up, lane, candidate)
        await lane.remember()
        return candidate.status()


async def promote(lane: Lane, model_id: str) -> Switched:
    """Make the candidate the live version; returns when the former live server has ended.

    Raises:
        ApplyError: it is no candidate, or its server is down.
    """
    async with lane.switching():
        candidate = lane.arms.candidate
        live = lane.adapter.model_id if lane.adapter else None
        if (candidate is None or candidate.is_withdrawn) and live == model_id:
            return Switched(model_id=model_id, seconds={})
        if candidate is None or candidate.is_withdrawn:
            raise ApplyError(
                f"{lane.scenario}: {model_id} is no candidate", advice="order a switch to it"
            )
        _see_that_it_is(candidate, model_id, lane)
        # A start of the live version that is under way would serve it after the flip.
        async with lane.starting():
            backend = candidate.backend
            if backend is None:
                raise ApplyError(
                    f"{model_id} cannot be promoted now, its server is {candidate.state}: "
                    f"{candidate.error or 'it has not come up yet'}",
                    advice="try again when it is active, or withdraw it",
                )
            lane.arms.drop_candidate()
            old = lane.serve(backend)
        with anyio.CancelScope(shield=True):
            await lane.remember()
            ended = await lane.release(old) if old is not None else {}
        seconds = {phase: round(each, 3) for phase, each in ended.items()}
        log.get(scenario=lane.scenario, model_id=model_id).info(
            log.CANARY_PROMOTED, previous=live, seconds=seconds
        )
        return Switched(model_id=model_id, seconds=seconds)


async def withdraw(lane: Lane, model_id: str | None) -> Switched:
    """End the trial: the candidate's tasks go to the live version at once; returns when its server
    has ended.

    Args:
        model_id: the candidate that is meant; None means whichever is there.

    Raises:
        ApplyError: another one is tried, or this one is live.
    """
    async with lane.switching():
        candidate = lane.arms.candidate
        live = lane.adapter.model_id if lane.adapter else None
        if model_id is not None and candidate is None and live == model_id:
            raise ApplyError(
                f"{lane.scenario}: {model_id} is live, not a candidate",
                advice="order a switch to another version",
            )
        if candidate is None:
            return Switched(model_id=live, seconds={})
        if model_id is not None:
            _see_that_it_is(candidate, model_id, lane)
        backend = lane.arms.drop_candidate()
        lane.waiting.tell()
        with anyio.CancelScope(shield=True):
            await lane.remember()
            ended = await lane.release(backend) if backend is not None else {}
        seconds = {phase: round(each, 3) for phase, each in ended.items()}
        log.get(scenario=lane.scenario, model_id=candidate.order.model_id).info(
            log.CANARY_WITHDRAWN, live=live, seconds=seconds
        )
        return Switched(model_id=live, seconds=seconds)


def restore(lane: Lane, order: CanaryOrder) -> Candidate:
    """The candidate that a former gateway has proved; `keep_up` starts it once the live version is up."""
    candidate = lane.arms.candidate = Candidate(lane.scenario, order)
    candidate.is_proved = True
    return candidate


async def switch_with_candidate(lane: Lane, order: SwitchOrder) -> Switched:
    """Switch a lane in which something may be tried: what is tried is promoted if the order means it, else it is
    withdrawn first, because what it was compared with is going.

    Raises:
        ApplyError: as `switch`.
    """
    candidate, target = lane.arms.candidate, target_of(order)
    is_there = lane.backend is not None and is_served(lane.backend, target)
    if candidate is not None and not is_there:
        if candidate.backend is not None and is_served(candidate.backend, target):
            return await promote(lane, candidate.order.model_id)
        await withdraw(lane, None)
    return await switch(lane, order)


async def keep_up(lane: Lane, candidate: Candidate) -> None:
    """Start the candidate's server whenever it is gone, and have it answer copies, until it is no candidate any more,
    or has failed too often.
    """
    async with anyio.create_task_group() as candidate.copies:
        candidate.scope = candidate.copies.cancel_scope
        await _keep_server(lane, candidate)
        candidate.scope.cancel()


async def _keep_server(lane: Lane, candidate: Candidate) -> None:
    while not candidate.is_hopeless:
        if lane.arms.candidate is not candidate:  # before this had begun
            return
        if candidate.backend is None and lane.backend is not None:
            if not await _has_room(lane, candidate):
                with anyio.move_on_after(ROOM_LOOK_S):
                    await candidate.news()
                continue
            candidate.state = "starting"
            try:
                await _come_up(lane, candidate)
            except ApplyError as error:
                candidate.fault(str(error))
                await anyio.sleep(candidate.attempts.wait_after(error))
                continue
        await candidate.news()
        if candidate.backend is None and not candidate.is_hopeless:
            await anyio.sleep(candidate.attempts.wait_after_death())
    candidate.state = "withdrawn"
    lane.waiting.tell()
    log.get(scenario=lane.scenario, model_id=candidate.order.model_id).error(
        log.CANARY_FAILED, error=candidate.error, faults=FAULTS_MAX
    )
    await lane.remember()


async def _has_room(lane: Lane, candidate: Candidate) -> bool:
    """Whether a server for it fits beside the live one: there may be less room than when the trial began, and what is
    live must not pay for it.
    """
    way = await choose_for(lane, candidate.adapter)
    if way.strategy == "blue_green":
        return True
    if not candidate.is_short_of_room:
        log.get(scenario=lane.scenario, model_id=candidate.order.model_id).warning(
            log.CANARY_DELAYED, reason=way.reason
        )
    candidate.wait_for_room(way.reason)
    return False


async def _come_up(lane: Lane, candidate: Candidate) -> dict[str, float]:
    """Start a server for the candidate and give it its share; the first one is proved as in a
    switch.
    """
    async with lane.servers.beside:
        return await _stand_beside(lane, candidate)


async def _stand_beside(lane: Lane, candidate: Candidate) -> dict[str, float]:
    began = time.monotonic()
    backend = await lane.start(candidate.adapter)
    started = time.monotonic()
    try:
        if candidate.is_proved:
            warn_if_unsure(backend, scenario=lane.scenario)
            if backend.server.has_ended:
                raise ApplyError(f"{backend.server.plan.name} ended right after its start")
        else:
            live = lane.backend
            await prove(lane, backend, live, await former_answers(lane, live, backend.fingerprint))
    except BaseException:
        await lane.stop(backend.server)
        raise
    if lane.arms.candidate is not candidate:  # withdrawn in this very moment
        await lane.stop(backend.server)
        return {}
    lane.stand_beside(candidate, backend)
    return {
        "start": round(started - began, 3),
        "probe": round(time.monotonic() - started, 3),
    }


def _see_that_it_is(candidate: Candidate, model_id: str, lane: Lane) -> None:
    if candidate.order.model_id != model_id:
        raise ApplyError(
            f"{lane.scenario}: {candidate.order.model_id} is tried now, not {model_id}",
            advice=f"promote or withdraw {candidate.order.model_id} first",
        )
