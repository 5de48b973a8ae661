"""Lanes that make room while the daemon trains on the same machine: on the CPU, or with fewer slots.

The daemon says that a run goes on, again and again; when it has been silent for as long as it said, the run is taken
for ended. So a daemon that is killed leaves no server behind that is smaller than it should be.
"""

import anyio
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.domain.serving import Switched, TrainingNotice
from honed.errors import ApplyError
from honed.gateway.lane import Lane
from honed.gateway.switch import renew


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

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    async def note(self, lane: Lane, notice: TrainingNotice, tasks: TaskGroup) -> Switched:
        """A run of the lane's scenario begins, goes on, or has ended; returns when there is room, or none is needed.

        Raises:
            ApplyError: the server could not be exchanged; the former one serves on.
        """
        scenario = lane.scenario
        if notice.lasts_s <= 0:
            self._until.pop(scenario, None)
            return await _reshape(lane, lane.section)
        is_new = scenario not in self._until
        self._until[scenario] = anyio.current_time() + notice.lasts_s
        if is_new:
            tasks.start_soon(self._expire, lane)
        return await _reshape(lane, leaner(lane.section))

    async def _expire(self, lane: Lane) -> None:
        """Take the run for ended when nothing is heard of it any more."""
        while (until := self._until.get(lane.scenario)) is not None:
            if until > anyio.current_time():
                await anyio.sleep_until(until)
                continue
            del self._until[lane.scenario]
            try:
                await _reshape(lane, lane.section)
            except ApplyError as error:
                log.get(scenario=lane.scenario).error(log.SWITCH_FAILED, error=str(error))


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
