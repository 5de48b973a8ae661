"""The servers of a lane that shares one with others: `servers`, with its process looked after by `shared`."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio

from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.gateway.backend import Backend, Pulse
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer
from honed.gateway.places import Member
from honed.gateway.servers import Servers, Told
from honed.gateway.shared import Shared
from honed.gateway.tenant import Tenant


class Tenancy(Servers):
    """Every place in a shared server that a lane has taken and not left yet."""

    def __init__(
        self,
        member: Member,
        find: Callable[[], Shared],
        section: ServeSection,
        folder: Path,
        told: Told,
        *,
        pulse: Pulse,
    ) -> None:
        """`find` finds what the lane's base model is served by."""
        super().__init__(member.scenario, section, folder, told, pulse=pulse)
        self._member = member
        self._find = find
        self._found: tuple[Path | None, Shared] | None = None
        """For which file of a base model it was asked last, and what it found."""

    def _shared(self) -> Shared:
        base_gguf = self._member.base_gguf
        if self._found is None or self._found[0] != base_gguf:
            if self._found is not None:
                self._found[1].members.remove(self._member)
            self._found = base_gguf, self._find()
            self._found[1].members.append(self._member)
        return self._found[1]

    @property
    def section(self) -> ServeSection:
        """What servers are started with from now on, for all lanes of the base model."""
        return self._shared().section

    @section.setter
    def section(self, section: ServeSection) -> None:
        self._shared().section = section

    @property
    def starting(self) -> anyio.Lock:
        """One for all: who gets another server moves the others."""
        return self._shared().lock

    @property
    def beside(self) -> AbstractAsyncContextManager[None]:
        """As `starting`."""
        return self._shared().lock

    def at_hand(self, adapter: AdapterRef | None) -> str | None:
        """As of `Servers`: adapters that served lately are still there."""
        if not self._shared().has(adapter):
            return None
        return "the server that the scenarios share has it at hand"

    @property
    def residents(self) -> list[str]:
        """Model ids of the adapters that the server has."""
        return [each.model_id for each in self._shared().residents]

    def rest_s(self, adapter: AdapterRef | None) -> float:
        """As of `Servers`: scenarios that are more than there are places take turns, and not too fast."""
        return self._shared().rest_s(adapter)

    async def others_ended(self) -> None:
        """As of `Servers`."""
        await self._shared().others_ended()

    async def vacate(self) -> None:
        """Have the other lanes leave it, too."""
        await self._shared().vacate(self._member)

    async def start(self, launch: Launch) -> Backend:
        """Take a place in the server, or in a new one where it does not have the adapter; raises as that of `Servers`,
        and when a neighbour's adapter cannot be proved in the new one.
        """
        backend = await self._shared().start(self._member, launch)
        self._take(backend.server)
        return backend

    def into_service(self, backend: Backend) -> None:
        """As of `Servers`; those for which the server has come up as well move to it."""
        tenant = backend.server
        assert isinstance(tenant, Tenant)
        self._take(tenant)  # one that a neighbour has come up with is new here
        self._shared().settle(tenant.home)
        super().into_service(backend)

    def _take(self, tenant: LlamaServer) -> None:
        """Tell when it ends by itself; leave it with all others."""
        assert self.tasks is not None, "nobody would watch the server"
        if tenant not in self._running:
            self._running.add(tenant)
            self.tasks.start_soon(self._watch, tenant)

    def _is_crowded(self, backend: Backend) -> bool:
        tenant = backend.server
        return tenant.home.is_crowded if isinstance(tenant, Tenant) else backend.is_crowded
