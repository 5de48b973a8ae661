"""Blue/green: a second server comes up, proves that it answers as the adapter should, takes over;
the first one drains.

Until the flip the former server answers everything, and any failure leaves it so. After the flip
nothing can fail any more: draining and stopping the old server are bounded waits.
"""

import time

import anyio

from honed import log
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef, Switched, SwitchOrder
from honed.errors import AdapterNotFoundError, ApplyError, ProbeFailedError
from honed.gateway import probe
from honed.gateway.backend import Backend
from honed.gateway.lane import Lane


async def switch(lane: Lane, order: SwitchOrder) -> Switched:
    """Serve the adapter of `order` instead of what is served; returns when the old server has
    ended.

    Raises:
        AdapterNotFoundError: its files are not there, or have been changed; no server was started.
        ApplyError: it could not be proved to serve; the former one serves on.
    """
    target = _target(order)
    async with lane.switching():
        if lane.backend is not None and _is_served(lane.backend, target):
            return Switched(model_id=order.model_id, seconds={})
        logger = log.get(scenario=lane.scenario, model_id=order.model_id)
        logger.info(log.SWITCH_STARTED, previous=lane.backend.model_id if lane.backend else None)
        try:
            seconds = await _blue_green(lane, target)
        except ApplyError as error:
            logger.error(log.SWITCH_FAILED, error=str(error), kind=type(error).__name__)
            raise
        logger.info(log.SWITCH_DONE, seconds=seconds)
        return Switched(model_id=order.model_id, seconds=seconds)


def _target(order: SwitchOrder) -> AdapterRef | None:
    if order.model_id is None:
        return None
    if order.adapter_path is None:
        raise AdapterNotFoundError(f"the order to serve {order.model_id} names no adapter_path")
    return AdapterRef(order.model_id, order.adapter_path, order.digest)


def _is_served(backend: Backend, target: AdapterRef | None) -> bool:
    """Whether it is there already; a number that was given twice is told apart by the digest."""
    served = backend.adapter
    if served is None or target is None:
        return served is target
    digests = {served.digest, target.digest} - {None}
    return served.model_id == target.model_id and len(digests) < 2


async def _blue_green(lane: Lane, target: AdapterRef | None) -> dict[str, float]:
    began = time.monotonic()
    async with lane.starting():
        new = await lane.start(target)
        started = time.monotonic()
        try:
            await _prove(lane, new, lane.backend)
        except BaseException:
            await lane.stop(new.server)
            raise
        proved = time.monotonic()
        if new.server.has_ended:
            raise ApplyError(f"{new.server.plan.name} ended right after its probe")
        old = lane.serve(new)
    # The old server must be ended and the new state remembered, whoever asked may be gone.
    with anyio.CancelScope(shield=True):
        await lane.remember()
        ended = await lane.release(old) if old is not None else {}
    phases = {"start": started - began, "probe": proved - started} | ended
    return {phase: round(seconds, 3) for phase, seconds in phases.items()}


async def _prove(lane: Lane, new: Backend, old: Backend | None) -> None:
    """See from its answers that the new server serves what it should."""
    before = old.fingerprint if old else None
    asked = new.fingerprint or before
    if (
        asked is None
    ):  # base after base: the adapter list was empty, and there is nothing to tell apart
        return
    s_new = new.answers if new.fingerprint else await probe.ask(new.address, asked)
    assert s_new is not None
    s_old = await _former_answers(lane, old, asked)
    proof = probe.compare(new.fingerprint, before, s_new, s_old)
    if not proof.is_accepted:
        raise ProbeFailedError(
            f"{new.server.plan.name} is healthy, but does not answer as "
            f"{new.model_id or 'the base model'} should: "
            f"x = {proof.x:.3f}, expected about 1 and more than {probe.ACCEPT_ABOVE}; "
            f"cosine = {proof.cosine:.3f}, expected about 1 and more than {probe.ACCEPT_COSINE}",
            advice="adapter.gguf, fingerprint.json and the served base do not belong together",
        )
    log.get(scenario=lane.scenario, model_id=new.model_id).info(log.PROBE_PASSED, **proof.facts())


async def _former_answers(
    lane: Lane, old: Backend | None, asked: Fingerprint
) -> probe.Answers | None:
    """What the former server answers to the same prompts; None when it cannot be asked."""
    if old is None:
        return None
    if old.fingerprint is not None and probe.ask_the_same(old.fingerprint, asked):
        return old.answers  # from when it was idle: now the probe would queue behind a swarm
    try:
        return await probe.ask(old.address, asked)
    except ProbeFailedError as error:
        # Too busy, or just died: the worker's own values stand in.
        log.get(scenario=lane.scenario).warning(log.PROBE_UNSURE, reason=str(error))
        return None
