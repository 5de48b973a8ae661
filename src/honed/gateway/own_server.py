"""A server of the operator's own that loads adapters while it runs, under names: vLLM and SGLang.

Each version stands beside the others, as a process of its own would: it is loaded under its name, proved, given its
requests, and unloaded when the last of these has ended. So a switch is a flip, nobody waits, and no name is ever given
to other weights while somebody may still ask for it. The server itself is never started, stopped or killed, and of
adapters that are not of this scenario none is touched.

Tried against the documentation of these servers only (`own_servers`).
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from honed.domain.serving import AdapterRef
from honed.errors import AdapterNotFoundError, ApplyError
from honed.gateway import dressing
from honed.gateway.backend import Dress
from honed.gateway.external import find
from honed.gateway.launch import Launch
from honed.gateway.llama_server import ServerPlan
from honed.gateway.upstream import Address
from honed.gateway.versions import LoadedVersion, Resident, Versions

if TYPE_CHECKING:
    from honed.own_servers import Listed, RuntimeLora

_ANSWER: Final = timedelta(seconds=30)
"""How long one answer of the server may take; a probe waits among requests."""
_WHAT: Final = {"vllm": "vLLM", "sglang": "SGLang"}


class OwnServer(Versions):
    """The versions of one scenario on such a server."""

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
            # of another key clients must not be told that theirs is wrong
            return self._all_are_gone(version, str(error))
        except ApplyError:
            return None  # it may be busy; its pulse is felt
        base, name, path, _ = version.resident
        if listed.base != base:
            return f"its base model is {listed.base}, and was {base}"
        if name is not None and listed.adapters.get(name) != path:
            return f"it has forgotten {name}: it was started again, or somebody has unloaded it"
        return None

    async def _unload(self, address: Address, name: str) -> None:
        await self._loras(address).unload_if_possible(name)

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
        name, digest = await self._name(adapter)
        at = self._section.external_adapters_at
        path = str(at / folder.name) if at else str(folder)
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
