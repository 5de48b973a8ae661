"""The llama-server processes of one lane: started, seen to be right, watched, ended by handle."""

from collections.abc import Callable
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.gateway import llama_server
from honed.gateway.backend import Backend
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer


class Servers:
    """Every server that a lane has started and not ended yet."""

    def __init__(
        self,
        scenario: str,
        section: ServeSection,
        folder: Path,
        *,
        died: Callable[[LlamaServer, str], None],
    ) -> None:
        """`died` is told of one that ended by itself, and why; it is gone by then."""
        self._scenario = scenario
        self._section = section
        self._folder = folder
        self._died = died
        self._running: set[LlamaServer] = set()

    async def start(self, launch: Launch, tasks: TaskGroup) -> Backend:
        """Start a server, see that it is healthy and is what it should be, and watch it from `tasks`.

        Raises:
            BaseMismatchError: the server is not that of the base model; it has been stopped.
            ApplyError: the server did not come up as it should; it has been stopped.
        """
        taken = {server.plan.name for server in self._running}
        server = await llama_server.start(
            launch.plan(self._scenario, self._section, self._folder, taken=taken)
        )
        self._running.add(server)
        try:
            backend = await launch.examine(server)
        except BaseException:
            await self.stop(server)
            raise
        tasks.start_soon(self._watch, server)
        return backend

    async def stop(self, server: LlamaServer, *, grace_s: float = 1) -> None:
        """End one."""
        await server.stop(grace_s=grace_s)
        self._running.discard(server)

    async def end_all(self) -> None:
        """End all at once, without grace."""
        async with anyio.create_task_group() as ends:
            for server in list(self._running):
                ends.start_soon(self._kill, server)

    async def _kill(self, server: LlamaServer) -> None:
        await self.stop(server, grace_s=0)

    async def _watch(self, server: LlamaServer) -> None:
        """Notice when a server ends by itself."""
        status = await server.wait()
        if server.is_stopping:
            return
        log.get(scenario=self._scenario).error(
            log.SERVER_DIED,
            server=server.plan.name,
            status=status,
            verdict=server.verdict,
            log=server.faults(),
        )
        await self.stop(server)
        self._died(server, server.verdict or f"{server.plan.name} ended with status {status}")
