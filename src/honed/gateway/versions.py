"""The versions of one scenario on a server of the operator's own that has several at a time, under names.

Each stands beside the others, as a process of its own would, and is unloaded when its last request has ended.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

from honed.adapter_files import adapter_digest
from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.errors import AdapterNotFoundError
from honed.gateway.backend import Backend, Dress
from honed.gateway.external import ExternalServer
from honed.gateway.launch import Launch
from honed.gateway.llama_server import ServerPlan
from honed.gateway.upstream import Address

_LOOK_EVERY_S: Final = 1.0


class Resident(NamedTuple):
    """What a server is asked for to be answered by one version."""

    base: str
    name: str | None
    """The adapter's; None is the base model itself."""
    path: str | None
    digest: str | None


class LoadedVersion(ExternalServer):
    """One version on such a server, where a lane has a process otherwise. Made by `OwnServer` or `Router`."""

    def __init__(
        self,
        plan: ServerPlan,
        address: Address,
        adapter: AdapterRef | None,
        *,
        versions: "Versions",
        resident: Resident,
        dress: Dress,
    ) -> None:
        super().__init__(plan, address)
        self.resident = resident
        self.backend = Backend(self, address, adapter, None, None, dress=dress)
        """Proved when it is there; there is nothing more to compare it with."""
        self._versions = versions
        self._is_unloaded = False

    async def stop(self, *, grace_s: float = 0) -> None:
        """Take it out of service; without a grace it stays loaded until its last request has ended (`look`)."""
        await super().stop()
        if grace_s > 0 and self.backend.in_flight == 0:
            await self._unload()

    async def look(self) -> None:
        """Look every second whether the server still has it, until it is out of service; unload it after its last
        request.
        """
        while not self.has_ended:
            with anyio.move_on_after(_LOOK_EVERY_S):
                await self.wait()
                break
            if (gone := await self._versions.gone(self)) and not self.has_ended:
                self.kill(gone)
        await self.backend.drained()
        await self._unload()

    async def _unload(self) -> None:
        if not self._is_unloaded:
            self._is_unloaded = True
            await self._versions.leave(self)

    def faults(self) -> str:
        """Where its log is, only the operator knows."""
        return f"see the log of the server at {self.address}"


class Versions(ABC):
    """What `OwnServer` and `Router` know of the versions that they have loaded."""

    def __init__(self, scenario: str, section: ServeSection) -> None:
        self._scenario = scenario
        self._section = section
        self._starting = anyio.Lock()
        self._here: set[LoadedVersion] = set()
        """Those that are loaded, also those that only finish what they have."""
        self._digests: dict[str, str] = {}
        """Under which names this gateway has loaded what."""

    @abstractmethod
    async def start(self, plan: ServerPlan, launch: Launch) -> LoadedVersion:
        """Load a version, and see that it answers as it should; raises ApplyError."""

    @abstractmethod
    async def gone(self, version: LoadedVersion) -> str | None:
        """Why a version answers no more; None while it does, or where the server does not say."""

    async def leave(self, version: LoadedVersion) -> None:
        """Unload a version that nobody asks for any more, unless another one goes by the same name."""
        async with self._starting:
            self._here.discard(version)
            name = version.resident.name
            if name is None or name in self._names or version.verdict is not None:
                return  # the server has lost it, or hangs: the next start clears what is left
            assert version.address is not None
            await self._unload(version.address, name)

    @abstractmethod
    async def _unload(self, address: Address, name: str) -> None:
        """Have the server drop a version; a failure is only told."""

    @property
    def _names(self) -> set[str]:
        """Those that are in use."""
        return {each.resident.name for each in self._here if each.resident.name is not None}

    async def _name(self, adapter: AdapterRef) -> tuple[str, str]:
        """What a version is called there, and the digest of its adapter's files; raises AdapterNotFoundError."""
        digest = adapter.digest or await _digest_of(adapter)
        name = adapter.model_id
        if self._digests.setdefault(name, digest) != digest:  # a number that was given twice
            name = f"{name}-{digest[:12]}"
        return name, digest

    def _all_are_gone(self, version: LoadedVersion, why: str) -> str:
        """The server has left, and with it all versions at once: a candidate whose live version seems to be up would be
        started in vain, and that counted as its fault.
        """
        for each in self._here - {version}:
            if not each.has_ended:
                each.kill(why)
        return why


async def _digest_of(adapter: AdapterRef) -> str:
    try:
        return await to_thread.run_sync(adapter_digest, Path(adapter.path))
    except OSError as error:
        raise AdapterNotFoundError(f"{adapter.model_id}: {error}") from error
