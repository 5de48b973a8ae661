"""The ways from one adapter to the next; `switch` chooses.

Each returns the seconds of its phases, and whatever fails leaves the former adapter in service, or brings it back.
"""

import time

import anyio

from honed import log
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef
from honed.errors import ApplyError, ProbeFailedError
from honed.gateway import probe, runtime
from honed.gateway.backend import Backend
from honed.gateway.in_place import Exchange
from honed.gateway.keeping_up import bring_up
from honed.gateway.lane import Lane

Seconds = dict[str, float]


async def blue_green(lane: Lane, target: AdapterRef | None) -> Seconds:
    """A second server comes up, proves that it answers as the adapter should, takes over; the first one drains.

    Until the flip the former server answers everything, and any failure leaves it so. After the flip
    nothing can fail any more: draining and stopping the old server are bounded waits.
    """
    async with lane.starting():
        seconds, old = await _take_over(lane, target)
    # The old server must be ended and the new state remembered, whoever asked may be gone.
    with anyio.CancelScope(shield=True):
        await lane.remember()
        ended = await lane.release(old) if old is not None else {}
    return seconds | ended


async def _take_over(lane: Lane, target: AdapterRef | None) -> tuple[Seconds, Backend | None]:
    """Start a server beside the one that serves, if there is one, and have it answer; returns that one as well."""
    began = time.monotonic()
    new = await lane.start(target)
    started = time.monotonic()
    old = lane.backend
    try:
        asked = new.fingerprint or (old.fingerprint if old else None)
        await prove(lane, new, old, await former_answers(lane, old, asked))
    except BaseException:
        await lane.stop(new.server)
        raise
    proved = time.monotonic()
    return {"start": started - began, "probe": proved - started}, lane.serve(new)


async def hold(lane: Lane, target: AdapterRef | None) -> Seconds:
    """The server finishes what it has and ends; what comes meanwhile waits in the gateway for the next one.

    What can be seen to be wrong beforehand disturbs nobody. A server that does not come up, or fails its proof, is
    followed by the former adapter; when even that does not start, the lane tries again as after a crash.
    """
    async with lane.starting():
        if lane.backend is not None:
            seconds = await _follow(lane, lane.backend, target)
        else:  # it has died just now
            seconds, _ = await _take_over(lane, target)
    with anyio.CancelScope(shield=True):
        await lane.remember()
    return seconds


async def _follow(lane: Lane, old: Backend, target: AdapterRef | None) -> Seconds:
    """End the server that serves, then start the one that follows it."""
    launch = await lane.see_files(target)
    s_old = await former_answers(lane, old, launch.fingerprint or old.fingerprint)
    lane.withdraw()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.servers.vacate)
        ended = await lane.release(old)
    began = time.monotonic()
    try:
        new = await lane.start(target)
        started = time.monotonic()
        try:
            await prove(lane, new, old, s_old)
        except BaseException:
            await lane.stop(new.server)
            raise
    except ApplyError as error:
        raise await _with_the_former(lane, old, error) from error
    proved = time.monotonic()
    lane.serve(new)
    return ended | {"start": started - began, "probe": proved - started}


async def in_place(lane: Lane, target: AdapterRef | None) -> Seconds:
    """The server exchanges its adapter itself, while requests wait in the gateway.

    Nobody waits for a server that cannot. One that fails, or still answers from caches of the former adapter, goes back
    to that; one that has not finished what it has in time is left as it is, for answers would mix.
    """
    exchange: Exchange | None = None
    async with lane.starting():
        if lane.backend is not None:
            seconds, exchange = await _exchange(lane, lane.backend, target)
        else:  # it has died just now
            seconds, _ = await _take_over(lane, target)
    with anyio.CancelScope(shield=True):
        await lane.remember()
        if exchange is not None:
            await exchange.finish()
    return seconds


async def _exchange(
    lane: Lane, old: Backend, target: AdapterRef | None
) -> tuple[Seconds, Exchange]:
    """Have the server that serves finish what it has, and exchange its adapter."""
    launch = await lane.see_files(target)
    exchange = Exchange(await runtime.ask(old.address), launch.adapter_gguf)
    began = time.monotonic()
    lane.withdraw()
    old.server.is_exchanging = True
    try:
        with anyio.move_on_after(lane.section.drain_timeout.total_seconds()):
            await old.drained()
        drained = time.monotonic()
        if old.in_flight:
            raise ApplyError(
                f"{old.in_flight} requests had not ended after {drained - began:.1f} s",
                advice="raise serve.drain_timeout",
            )
        asked = launch.fingerprint or old.fingerprint
        try:
            former = await exchange.make(asked)
            answers = await probe.ask(old.address, asked) if asked is not None else None
            kept = answers if launch.fingerprint else None
            new = Backend(old.server, old.address, target, launch.fingerprint, kept, launch.facts)
            await prove(lane, new, old, former)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await exchange.undo()
            raise
    except BaseException:
        if not old.server.has_ended:  # nobody would notice any more that it has
            lane.serve(old)
        raise
    finally:
        old.server.is_exchanging = False
    old.server.answers_with = launch.adapter_gguf
    lane.serve(new)
    return {"drain": drained - began, "exchange": time.monotonic() - drained}, exchange


async def _with_the_former(lane: Lane, old: Backend, error: ApplyError) -> ApplyError:
    """Serve the former adapter again; the error that says so."""
    name = old.model_id or "the base model"
    try:
        await bring_up(lane)
        then = f"{name} was started again and serves"
    except ApplyError as second:
        then = f"{name} could not be started again either, and is tried on: {second}"
    return type(error)(f"{error}; {then}", advice=error.advice)


async def prove(lane: Lane, new: Backend, old: Backend | None, s_old: probe.Answers | None) -> None:
    """See from its answers that the new server serves what it should; `s_old` are those of the old one.

    Raises:
        ProbeFailedError: it does not.
        ApplyError: it has ended.
    """
    before = old.fingerprint if old else None
    asked = new.fingerprint or before
    if (
        asked is not None
    ):  # base after base: the adapter list was empty, nothing is to be told apart
        s_new = new.answers if new.fingerprint else await new.ask(asked)
        assert s_new is not None
        proof = probe.compare(new.fingerprint, before, s_new, s_old)
        if not proof.is_accepted:
            raise ProbeFailedError(
                f"{new.server.plan.name} is healthy, but does not answer as "
                f"{new.model_id or 'the base model'} should: "
                f"x = {proof.x:.3f}, expected about 1 and more than {probe.ACCEPT_ABOVE}; "
                f"cosine = {proof.cosine:.3f}, expected about 1 and more than {probe.ACCEPT_COSINE}",
                advice="adapter.gguf, fingerprint.json and the served base do not belong together",
            )
        logger = log.get(scenario=lane.scenario, model_id=new.model_id)
        logger.info(log.PROBE_PASSED, **proof.facts())
    if new.server.has_ended:
        raise ApplyError(f"{new.server.plan.name} ended right after its probe")


async def former_answers(
    lane: Lane, old: Backend | None, asked: Fingerprint | None
) -> probe.Answers | None:
    """What the former server answers to the same prompts; None when it cannot be asked."""
    if old is None or asked is None:
        return None
    if old.fingerprint is not None and probe.ask_the_same(old.fingerprint, asked):
        return old.answers  # from when it was idle: now the probe would queue behind a swarm
    try:
        return await old.ask(asked)
    except ProbeFailedError as error:
        # Too busy, or just died: the worker's own values stand in.
        log.get(scenario=lane.scenario).warning(log.PROBE_UNSURE, reason=str(error))
        return None
