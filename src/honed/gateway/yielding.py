"""Lanes that make room while the daemon trains on the same machine: on the CPU, or with fewer slots.

The daemon says that a run goes on, again and again; when it has been silent for as long as it said, the run is taken
for ended. So a daemon that is killed leaves no server behind that is smaller than it should be; and a server that could
not be made as large again as it was, for one because the run's memory was not free yet, is tried again until it is.
"""

from collections.abc import Mapping
from typing import Final

import anyio
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.domain.serving import Switched, TrainingNotice
from honed.errors import ApplyError
from honed.gateway.lane import Lane
from honed.gateway.switch import renew

_FIRST_WAIT_S: Final = 1.0
"""From a server that could not be made large again to the next try, doubled with each."""
_LAST_WAIT_S: Final = 60.0


def leaner(section: ServeSection) -> ServeSection:
    """How servers are started while a run goes on."""
    match section.while_training:
        case "cpu":
            return section.model_copy(update={"n_gpu_layers": 0})
        case "one_slot":
            return section.model_copy(update={"parallel": 1})
        case "share":
            return section


class Yielding:
    """Which lanes make room, and until when."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        """`lanes` are all that there are, by scenario."""
        self._lanes = lanes
        self._until: dict[str, float] = {}
        self._training: dict[str, Lane] = {}
        """Lanes of which a run goes on, by scenario, as `_until`."""
        self._widening: set[str] = set()
        """Scenarios whose server is still to be made large again."""

    async def note(self, lane: Lane, notice: TrainingNotice, tasks: TaskGroup) -> Switched:
        """A run of the lane's scenario begins, goes on, or has ended; returns when there is room, or none is needed.

        Raises:
            ApplyError: the server could not be exchanged; the former one serves on. One that should have become
                large again is tried again by itself.
        """
        scenario = lane.scenario
        if notice.lasts_s <= 0:
            self._forget(lane)
            try:
                return await self._reshape(lane, self._due(lane))
            except ApplyError:
                if scenario not in self._widening:
                    tasks.start_soon(self._widen, lane, _FIRST_WAIT_S)
                raise
        self._training[scenario] = lane
        self._until[scenario] = until = anyio.current_time() + notice.lasts_s
        tasks.start_soon(self._expire, lane, until)
        return await self._reshape(lane, leaner(lane.section))

    async def _expire(self, lane: Lane, until: float) -> None:
        """Take the run for ended when nothing has been heard of it since."""
        await anyio.sleep_until(until)
        if self._until.get(lane.scenario) == until:
            self._forget(lane)
            await self._widen(lane)

    async def _widen(self, lane: Lane, wait_s: float = 0.0) -> None:
        """Have the server as it was before the run, however often that takes; until the next run begins."""
        self._widening.add(lane.scenario)
        try:
            await anyio.sleep(wait_s)
            while lane.scenario not in self._until:
                try:
                    await self._reshape(lane, self._due(lane))
                    return
                except ApplyError as error:
                    wait_s = min(_LAST_WAIT_S, max(_FIRST_WAIT_S, 2 * wait_s))
                    log.get(scenario=lane.scenario, again_in_s=wait_s).warning(
                        log.SWITCH_FAILED, error=str(error)
                    )
                await anyio.sleep(wait_s)
        finally:
            self._widening.discard(lane.scenario)

    def _forget(self, lane: Lane) -> None:
        self._until.pop(lane.scenario, None)
        self._training.pop(lane.scenario, None)

    def _due(self, lane: Lane) -> ServeSection:
        """How a server of the lane is started when its own run has ended: of those that share it one may go on."""
        starting = lane.servers.starting
        is_used = any(each.servers.starting is starting for each in self._training.values())
        return leaner(lane.section) if is_used else lane.section

    async def _reshape(self, lane: Lane, section: ServeSection) -> Switched:
        """As below; the server that a parked lane shares is exchanged by one that it serves."""
        starting = lane.servers.starting
        sharing = (each for each in self._lanes.values() if each.servers.starting is starting)
        serving = (each for each in (lane, *sharing) if each.backend is not None)
        return await _reshape(next(serving, lane), section)


async def _reshape(lane: Lane, section: ServeSection) -> Switched:
    """Start servers like this from now on, and exchange the one that runs if it is otherwise."""
    before = lane.servers.section
    if section == before or section.external_url is not None:
        model_id = lane.backend.model_id if lane.backend else None
        return Switched(model_id=model_id, seconds={})
    lane.servers.section = section
    try:
        return await renew(lane)
    except ApplyError:
        lane.servers.section = before
        raise
