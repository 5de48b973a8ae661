"""The llama-server processes of one lane: started, seen to be right, watched, ended by handle."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.gateway import external, in_place, llama_server, server_log
from honed.gateway.backend import Backend, Pulse
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer
from honed.gateway.own_server import OwnServer
from honed.gateway.router import Router
from honed.gateway.versions import LoadedVersion, Versions


class Told(NamedTuple):
    """What a lane is told of its servers, and asked about them."""

    died: Callable[[LlamaServer, str], None]
    """One has ended by itself, and why; it is gone by then."""
    is_in_service: Callable[[Backend], bool]
    """One that is not may miss health checks; so may all while one starts."""


class Servers:
    """Every server that a lane has started and not ended yet."""

    def __init__(
        self,
        scenario: str,
        section: ServeSection,
        folder: Path,
        told: Told,
        *,
        pulse: Pulse,
    ) -> None:
        self._scenario = scenario
        self._own: Versions | None = None
        if section.has_versions_beside:
            made = OwnServer if section.lora_server else Router
            self._own = made(scenario, section)
        self._section = section
        self._lock = anyio.Lock()
        self._folder = folder
        self._told = told
        self._pulse = pulse
        self.tasks: TaskGroup | None = None
        """Where servers are watched; set by whoever runs it."""
        self._running: set[LlamaServer] = set()
        self._names: set[str] = set()
        """Those of the servers that run or come up."""

    @property
    def section(self) -> ServeSection:
        """What servers are started with from now on."""
        return self._section

    @section.setter
    def section(self, section: ServeSection) -> None:
        self._section = section

    @property
    def starting(self) -> anyio.Lock:
        """Held while what is live may get another server."""
        return self._lock

    @property
    def beside(self) -> AbstractAsyncContextManager[None]:
        """Held while a candidate gets its server."""
        return nullcontext()

    def at_hand(self, adapter: AdapterRef | None) -> str | None:
        """Why no server has to be started for an adapter; None when one has to be."""
        return None

    @property
    def residents(self) -> list[str]:
        """Model ids of the adapters that a shared server has; none of an own one."""
        return []

    def rest_s(self, adapter: AdapterRef | None) -> float:
        """Seconds until a server may be started for an adapter with nothing of the lane in service; 0 is now."""
        return 0.0

    async def others_ended(self) -> None:
        """Wait until the former server has ended for those, too, who shared it."""

    async def vacate(self) -> None:
        """See that nobody else keeps the server from ending."""

    async def start(self, launch: Launch) -> Backend:
        """Start a server, see that it is healthy and is what it should be, and watch it.

        Raises:
            BaseMismatchError: the server is not that of the base model; it has been stopped.
            ApplyError: the server did not come up as it should; it has been stopped.
        """
        tasks = self.tasks
        assert tasks is not None, "nobody would watch the server"
        plan = launch.plan(self._scenario, self.section, self._folder, taken=self._names)
        is_ours = self.section.external_url is None
        self._names.add(plan.name)
        try:
            if self._own is not None:
                server: LlamaServer = await self._own.start(plan, launch)
            else:
                server = await (llama_server.start(plan) if is_ours else external.connect(plan))
        except BaseException:
            self._names.discard(plan.name)
            raise
        self._running.add(server)
        try:
            backend = await _seen(server, launch)
        except BaseException:
            await self.stop(server)
            raise
        tasks.start_soon(self._watch, server)
        if isinstance(server, external.ExternalServer):
            tasks.start_soon(server.look)
        else:
            tasks.start_soon(keep_log_small, server)
        return backend

    async def stop(self, server: LlamaServer, *, grace_s: float = 1) -> None:
        """End one."""
        await server.stop(grace_s=grace_s)
        if server in self._running:
            self._running.discard(server)
            self._names.discard(server.plan.name)

    def into_service(self, backend: Backend) -> None:
        """A server has requests from now on: one that hangs is ended, and `died` told."""
        if not backend.is_felt:  # one that was a candidate is
            backend.is_felt = True
            assert self.tasks is not None
            self.tasks.start_soon(self._feel_pulse, backend)

    async def _feel_pulse(self, backend: Backend) -> None:
        hangs = await backend.feel_pulse(
            self._pulse,
            is_in_service=lambda: self._told.is_in_service(backend),
            is_excused=lambda: self.starting.locked() or self._is_crowded(backend),
        )
        backend.is_felt = False  # one that goes back into service is felt again
        if hangs:
            name = backend.server.plan.name
            backend.server.kill(f"{name} missed {self._pulse.misses} health checks")

    def _is_crowded(self, backend: Backend) -> bool:
        """Whether a health check may have to wait behind requests."""
        return backend.is_crowded

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
        self._told.died(server, server.verdict or f"{server.plan.name} ended with status {status}")


async def _seen(server: LlamaServer, launch: Launch) -> Backend:
    """A server that is healthy, seen to be what it should be; raises ApplyError."""
    if isinstance(server, LoadedVersion):
        return server.backend
    return await (in_place.take(launch, server) if server.is_external else launch.examine(server))


async def keep_log_small(server: LlamaServer) -> None:
    """Cut the log of a server when it has grown large, until it ends."""
    while True:
        await anyio.sleep(server_log.CHECK_EVERY_S)
        if server.has_ended:  # the file may be the next server's
            return
        try:
            await to_thread.run_sync(server_log.cut, server.plan.log_path)
        except OSError as error:
            log.get(path=str(server.plan.log_path)).warning(log.STATE_UNWRITTEN, error=str(error))
