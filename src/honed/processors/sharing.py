"""A GPU that a run shares with the server: room is asked for, waited for, and given back.

The server's side is told again and again that the run goes on; a daemon that is killed says nothing more, and the
server takes its place again by itself.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
from anyio import to_thread

from honed import log
from honed.config import GpuSection
from honed.errors import ApplyError, TrainingError
from honed.machine.nvidia import Reading, cards

T = TypeVar("T")
MakeRoom = Callable[[float], Awaitable[None]]
"""Tells the server that a run goes on for so many seconds, 0 that it has ended; raises ApplyError."""

_LASTS_S: Final = 120.0
_AGAIN_S: Final = 30.0
_LOOK_EVERY_S: Final = 2.0
_FAREWELL_S: Final = 5.0


class Sharing:
    """What a job on the GPU is surrounded by."""

    def __init__(
        self, section: GpuSection, make_room: MakeRoom | None, *, reading: Reading = cards
    ) -> None:
        self._free = section.free
        self._wait_s = section.wait.total_seconds()
        self._make_room = make_room
        self._reading = reading
        self._is_alone = False
        """Whether the server did not answer last time; it is told once."""

    async def during(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work with room for it.

        Raises:
            TrainingError: no card had as much free memory as `gpu.free` says within `gpu.wait`.
        """
        result: list[T] = []
        failed: Exception | None = None
        try:
            await self._say(_LASTS_S)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._say_again)
                try:
                    await self._until_free()
                    result.append(await work())
                except Exception as error:  # not as a group of one
                    failed = error
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await self._say(0)
        if failed is not None:
            raise failed
        return result[0]

    async def _say(self, lasts_s: float) -> None:
        if self._make_room is None:
            return
        try:
            await self._make_room(lasts_s)
        except ApplyError as error:  # training goes on: it may fit all the same
            if not self._is_alone:
                log.get().warning(log.GPU_NOT_SHARED, error=str(error))
            self._is_alone = True
        else:
            self._is_alone = False

    async def _say_again(self) -> None:
        while True:
            await anyio.sleep(_AGAIN_S)
            await self._say(_LASTS_S)

    async def _until_free(self) -> None:
        if self._free is None:
            return
        until = anyio.current_time() + self._wait_s
        while found := await to_thread.run_sync(self._reading):
            most = max(card.free for card in found)
            if most >= self._free:
                return
            if anyio.current_time() >= until:
                raise TrainingError(
                    f"no GPU has {self._free / 2**30:.1f} GiB free: {most / 2**30:.1f} GiB after {self._wait_s:.0f} s",
                    advice="lower gpu.free, set serve.while_training, or end what else uses the GPU",
                )
            await anyio.sleep(min(_LOOK_EVERY_S, max(0.0, until - anyio.current_time())))
