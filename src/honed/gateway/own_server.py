"""A server of the operator's own that loads adapters while it runs, under names: vLLM and SGLang.

Each version stands beside the others, as a process of its own would: it is loaded under its name, proved, given its
requests, and unloaded when the last of these has ended. So a switch is a flip, nobody waits, and no name is ever given
to other weights while somebody may still ask for it. The server itself is never started, stopped or killed, and of
adapters that are not of this scenario none is touched.

Tried against the documentation of these servers only (`own_servers`).
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import anyio
from anyio import to_thread

from honed.adapter_files import adapter_digest
from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.errors import AdapterNotFoundError, ApplyError
from honed.gateway import dressing
from honed.gateway.backend import Backend, Dress
from honed.gateway.external import ExternalServer, find
from honed.gateway.launch import Launch
from honed.gateway.llama_server import ServerPlan
from honed.gateway.upstream import Address

if TYPE_CHECKING:
    from honed.own_servers import Listed, RuntimeLora

_LOOK_EVERY_S: Final = 1.0
_ANSWER: Final = timedelta(seconds=30)
"""How long one answer of the server may take; a probe waits among requests."""
_WHAT: Final = {"vllm": "vLLM", "sglang": "SGLang"}


class Resident(NamedTuple):
    """What a server is asked for to be answered by one version."""

    base: str
    name: str | None
    """The adapter's; None is the base model itself."""
    path: str | None
    digest: str | None


class Versions(Protocol):
    """The versions of one scenario on a server."""

    async def gone(self, version: "LoadedVersion") -> str | None:
        """Why a version answers no more; None while it does, or where the server does not say."""

    async def leave(self, version: "LoadedVersion") -> None:
        """Unload a version that nobody asks for any more."""


class LoadedVersion(ExternalServer):
    """One version on such a server, where a lane has a process otherwise. Made by `OwnServer` or `Router`."""

    def __init__(
        self,
        plan: ServerPlan,
        address: Address,
        adapter: AdapterRef | None,
        *,
        versions: Versions,
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


class OwnServer:
    """The versions of one scenario on such a server."""

    def __init__(self, scenario: str, section: ServeSection) -> None:
        self._scenario = scenario
        self._section = section
        self._starting = anyio.Lock()
        self._here: set[LoadedVersion] = set()
        """Those that are loaded, also those that only finish what they have."""
        self._digests: dict[str, str] = {}
        """Under which names this gateway has loaded what."""

    async def start(self, plan: ServerPlan, launch: Launch) -> LoadedVersion:
        """Load a version, and see that it answers as it should; the server is there when it is wanted.

        Raises:
            ServerStartError, HealthTimeoutError: there is no such server, as `external.find`.
            AdapterNotFoundError: the server does not see the adapter's files.
            ProbeFailedError: it answers otherwise.
            ApplyError: it refused; what it has loaded before is as it was.
        """
        kind = self._section.lora_server
        assert kind is not None
        address = await find(plan, _WHAT[kind])
        loras = self._loras(address)
        async with self._starting:
            listed = await loras.listed()
            await loras.clear(listed, keep=self._names)  # what a gateway that was killed has left
            resident = await self._resident(launch.adapter, listed)
            await self._load(loras, launch, resident, listed)
            version = LoadedVersion(
                plan,
                address,
                launch.adapter,
                versions=self,
                resident=resident,
                dress=self._dress(loras, resident),
            )
            self._here.add(version)
        return version

    async def gone(self, version: LoadedVersion) -> str | None:
        """Why a version answers no more; None while it does, or where the server does not say."""
        from honed.own_servers import KeyRefusedError, NobodyThereError

        assert version.address is not None
        try:
            listed = await self._loras(version.address).listed()
        except (NobodyThereError, KeyRefusedError) as error:
            # Of another key clients must not be told that theirs is wrong. All versions at once: a candidate whose
            # live version seems to be up would be started in vain, and that counted as its fault.
            for each in self._here - {version}:
                if not each.has_ended:
                    each.kill(str(error))
            return str(error)
        except ApplyError:
            return None  # it may be busy; its pulse is felt
        base, name, path, _ = version.resident
        if listed.base != base:
            return f"its base model is {listed.base}, and was {base}"
        if name is not None and listed.adapters.get(name) != path:
            return f"it has forgotten {name}: it was started again, or somebody has unloaded it"
        return None

    async def leave(self, version: LoadedVersion) -> None:
        """Unload a version that nobody asks for any more, unless another one goes by the same name."""
        async with self._starting:
            self._here.discard(version)
            name = version.resident.name
            if name is None or name in self._names or version.verdict is not None:
                return  # the server has forgotten it, or hangs: the next start clears what is left
            assert version.address is not None
            await self._loras(version.address).unload_if_possible(name)

    @property
    def _names(self) -> set[str]:
        return {each.resident.name for each in self._here if each.resident.name is not None}

    def _loras(self, address: Address) -> "RuntimeLora":
        # httpx is not loaded by a gateway that has no such server
        from honed.own_servers import RuntimeLora, Server, dialect_of

        assert self._section.lora_server is not None
        dialect = dialect_of(self._section.lora_server)
        return RuntimeLora(
            Server(dialect.what, str(address), key=address.key, timeout=_ANSWER),
            dialect,
            scenario=self._scenario,
            load_timeout=self._section.startup_timeout,
        )

    async def _resident(self, adapter: AdapterRef | None, listed: "Listed") -> Resident:
        """What a version is called there, and where it lies."""
        if adapter is None:
            return Resident(listed.base, None, None, None)
        folder = Path(adapter.path)
        digest = adapter.digest or await digest_of(adapter.model_id, folder)
        at = self._section.external_adapters_at
        path = str(at / folder.name) if at else str(folder)
        name = adapter.model_id
        if self._digests.setdefault(name, digest) != digest:  # a number that was given twice
            name = f"{name}-{digest[:12]}"
        return Resident(listed.base, name, path, digest)

    async def _load(
        self, loras: "RuntimeLora", launch: Launch, resident: Resident, listed: "Listed"
    ) -> None:
        """Load it and see that it answers as it should; one that does not is unloaded."""
        base, name, path, digest = resident
        if name is None:
            return
        assert path is not None
        assert digest is not None
        assert launch.fingerprint is not None
        if name in self._names and listed.adapters.get(name) == path:
            return  # proved, and perhaps in use
        try:
            await loras.load(name, path)
            await loras.prove(name, launch.fingerprint, base=base, salt=digest)
        except BaseException as error:
            if not isinstance(error, AdapterNotFoundError):
                with anyio.CancelScope(shield=True):
                    await loras.unload_if_possible(name)
            raise

    def _dress(self, loras: "RuntimeLora", resident: Resident) -> Dress:
        """How its requests name it."""
        base, name, _, digest = resident
        model = loras.dialect.requested(base, name) if name else base
        if self._section.lora_server == "vllm":
            return dressing.for_vllm(model, digest)
        return dressing.for_sglang(model, name)


async def digest_of(model_id: str, folder: Path) -> str:
    """The digest of an adapter's files; raises AdapterNotFoundError."""
    try:
        return await to_thread.run_sync(adapter_digest, folder)
    except OSError as error:
        raise AdapterNotFoundError(f"{model_id}: {error}") from error
