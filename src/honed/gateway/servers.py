"""The llama-server processes of one lane: started, seen to be right, watched, ended by handle."""

from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from honed import log
from honed.config import ServeSection
from honed.gateway import external, in_place, llama_server, server_log
from honed.gateway.backend import Backend, Pulse
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer
from honed.gateway.own_server import LoadedVersion, OwnServer


class Servers:
    """Every server that a lane has started and not ended yet."""

    def __init__(
        self,
        scenario: str,
        section: ServeSection,
        folder: Path,
        *,
        died: Callable[[LlamaServer, str], None],
        is_in_service: Callable[[Backend], bool],
        is_excused: Callable[[], bool],
        pulse: Pulse,
    ) -> None:
        """`died` is told of one that ended by itself, and why; it is gone by then. One that is excused, or out of
        service, may miss health checks.
        """
        self._scenario = scenario
        self.section = section
        """What servers are started with from now on."""
        self._own = OwnServer(scenario, section) if section.lora_server else None
        self._folder = folder
        self._died = died
        self._is_in_service = is_in_service
        self._is_excused = is_excused
        self._pulse = pulse
        self.tasks: TaskGroup | None = None
        """Where servers are watched; set by whoever runs it."""
        self._running: set[LlamaServer] = set()
        self._names: set[str] = set()
        """Those of the servers that run or come up."""

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
            tasks.start_soon(self._keep_log_small, server)
        return backend

    async def stop(self, server: LlamaServer, *, grace_s: float = 1) -> None:
        """End one."""
        await server.stop(grace_s=grace_s)
        if server in self._running:
            self._running.discard(server)
            self._names.discard(server.plan.name)

    def watch_pulse(self, backend: Backend) -> None:
        """End a server that hangs while it is in service; `died` is told."""
        if not backend.is_felt:  # one that was a candidate is
            backend.is_felt = True
            assert self.tasks is not None
            self.tasks.start_soon(self._feel_pulse, backend)

    async def _feel_pulse(self, backend: Backend) -> None:
        hangs = await backend.feel_pulse(
            self._pulse,
            is_in_service=lambda: self._is_in_service(backend),
            is_excused=lambda: self._is_excused() or backend.is_crowded,
        )
        backend.is_felt = False  # one that goes back into service is felt again
        if hangs:
            name = backend.server.plan.name
            backend.server.kill(f"{name} missed {self._pulse.misses} health checks")

    async def end_all(self) -> None:
        """End all at once, without grace."""
        async with anyio.create_task_group() as ends:
            for server in list(self._running):
                ends.start_soon(self._kill, server)

    async def _kill(self, server: LlamaServer) -> None:
        await self.stop(server, grace_s=0)

    async def _keep_log_small(self, server: LlamaServer) -> None:
        """Cut the log of a server when it has grown large, until it ends."""
        while True:
            await anyio.sleep(server_log.CHECK_EVERY_S)
            if server.has_ended:  # the file may be the next server's
                return
            try:
                await to_thread.run_sync(server_log.cut, server.plan.log_path)
            except OSError as error:
                log.get(path=str(server.plan.log_path)).warning(
                    log.STATE_UNWRITTEN, error=str(error)
                )

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


async def _seen(server: LlamaServer, launch: Launch) -> Backend:
    """A server that is healthy, seen to be what it should be; raises ApplyError."""
    if isinstance(server, LoadedVersion):
        return server.backend
    return await (in_place.take(launch, server) if server.is_external else launch.examine(server))
