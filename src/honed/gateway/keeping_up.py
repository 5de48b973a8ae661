"""Keeping a lane's server up: started when there is none, again after a crash, with growing patience."""

from typing import TYPE_CHECKING

import anyio

from honed.errors import ApplyError
from honed.gateway.backend import Backend
from honed.gateway.launch import warn_if_unsure
from honed.gateway.parity import check_server

if TYPE_CHECKING:
    from honed.gateway.lane import Lane


async def keep_up(lane: "Lane") -> None:
    """Until cancelled; a lane that is parked is left so."""
    while True:
        # before the look: what has changed until now is seen by it
        lane.changed = anyio.Event()
        rest_s = 0.0
        try:
            async with lane.servers.starting:
                if lane.backend is None and lane.has_base and not lane.is_parked:
                    rest_s = lane.servers.rest_s(lane.adapter)
                    if rest_s == 0:
                        await bring_up(lane)
                elif lane.backend is not None and lane.backend.facts is None:
                    await _compare_late(lane, lane.backend)
        except ApplyError as error:
            lane.start_failed(error)
            with anyio.move_on_after(lane.attempts.wait_after(error)):
                await lane.changed.wait()
            continue
        if rest_s > 0:
            with anyio.move_on_after(rest_s):
                await lane.changed.wait()
            continue
        await lane.changed.wait()
        if lane.backend is None:
            await anyio.sleep(lane.attempts.wait_after_death())
        else:
            lane.attempts.begin_anew()


async def bring_up(lane: "Lane") -> None:
    """Start what should be served, with nothing serving now; raises as `Lane.start`."""
    lane.state = "starting"
    backend = await lane.start(lane.adapter)
    warn_if_unsure(backend, scenario=lane.scenario)
    lane.serve(backend)


async def _compare_late(lane: "Lane", backend: Backend) -> None:
    """Compare what serves already, when facts have become known; one that fails serves no more."""
    try:
        launch = await lane.see_files(backend.adapter)
        if launch.facts is not None:
            await check_server(backend.address, launch.facts)
    except ApplyError:
        lane.backend = None
        await lane.stop(backend.server, grace_s=0)
        raise
    backend.facts = launch.facts
