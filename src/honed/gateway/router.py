"""A llama-server of the operator's own that was started without a model: a router, which starts a process for each
model of its presets file.

Each version is a model of it: a section of that file, loaded beside the one that serves, seen to be what it should be
as a server of ours is, given its requests, and unloaded when the last of these has ended; then the section goes. A
process has one adapter for all its life, so no cache of another one can answer. The router itself is never started or
stopped, and sections that are not of this scenario stay as they are.
"""

from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from honed import log
from honed.errors import ApplyError, ProbeFailedError, ServerStartError
from honed.gateway import dressing, presets, probe
from honed.gateway.backend import Backend
from honed.gateway.external import find
from honed.gateway.launch import Launch
from honed.gateway.llama_child import HTTP_THREADS, listed
from honed.gateway.llama_server import ServerPlan
from honed.gateway.parity import check_server
from honed.gateway.router_models import LeftError, RouterModels
from honed.gateway.upstream import Address
from honed.gateway.versions import LoadedVersion, Resident, Versions

_BASE: Final = "base"
"""Behind the `@`: the base model without an adapter."""


class Router(Versions):
    """The versions of one scenario on such a server."""

    async def start(self, plan: ServerPlan, launch: Launch) -> LoadedVersion:
        """Load a version, and see that it answers as it should; the router is there when it is wanted.

        Raises:
            ServerStartError: there is no router, or it could not load the version.
            HealthTimeoutError: it did not do so in time.
            BaseMismatchError: the base model is another one there.
            ProbeFailedError: it answers otherwise.
            ApplyError: it refused; what it has loaded before is as it was.
        """
        router = RouterModels(await find(plan, "llama-server's router"))
        async with self._starting:
            await self._clear(router)
            name, digest = f"{self._scenario}@{_BASE}", None
            if launch.adapter is not None:
                name, digest = await self._name(launch.adapter)
            try:
                if name not in self._names:
                    await self._load(router, name, self._options(plan))
                version = await self._seen(router, name, digest, plan, launch)
            except BaseException:
                if name not in self._names:
                    with anyio.CancelScope(shield=True):
                        await self._unload_if_possible(router, name)
                raise
            self._here.add(version)
        return version

    async def gone(self, version: LoadedVersion) -> str | None:
        """Why a version answers no more; None while it does, or where the router does not say."""
        assert version.address is not None
        name = version.resident.name
        assert name is not None
        try:
            status = (await RouterModels(version.address).listed()).get(name)
        except LeftError as error:
            return self._all_are_gone(version, str(error))
        except ApplyError:
            return None  # it may be busy; its pulse is felt
        if status is None:
            return f"the router has no model {name} any more: its section has gone from the presets file"
        return None if status.runs else f"the router's model {name} is {status}"

    async def _unload(self, address: Address, name: str) -> None:
        await self._unload_if_possible(RouterModels(address), name)

    @property
    def _names(self) -> set[str]:
        """Models that are in use; one that was found dead or hanging is loaded anew."""
        alive = [each.resident.name for each in self._here if each.verdict is None]
        return {name for name in alive if name is not None}

    @property
    def _presets(self) -> Path:
        assert self._section.external_presets is not None
        return self._section.external_presets.expanduser()

    def _options(self, plan: ServerPlan) -> dict[str, str]:
        """What a server of ours is started with, as keys of a preset."""
        section = self._section
        options = {"model": str(plan.base_gguf)}
        if plan.adapter_gguf is not None:
            options["lora"] = listed(str(plan.adapter_gguf))
        options |= {
            "ctx-size": str(section.ctx_size * section.parallel),  # of all slots together
            "parallel": str(section.parallel),
            "n-gpu-layers": str(section.n_gpu_layers),
            "threads-http": str(HTTP_THREADS),
            "metrics": "true",
        }
        if section.threads:
            options |= {"threads": str(section.threads), "threads-batch": str(section.threads)}
        return options

    async def _load(self, router: RouterModels, name: str, options: dict[str, str]) -> None:
        """Make the version a model of the router, and have it loaded."""
        text = presets.section(name, options)
        await router.see_room()
        await to_thread.run_sync(presets.put, self._presets, name, text)
        if name not in await router.listed(reload=True):
            raise ServerStartError(
                f"the router at {router.address} does not list {name} after reading its presets again",
                advice=f"start it as `llama-server --models-preset {self._presets}`, without a model",
            )
        await router.load(name, within_s=self._section.startup_timeout.total_seconds())

    async def _seen(
        self,
        router: RouterModels,
        name: str,
        digest: str | None,
        plan: ServerPlan,
        launch: Launch,
    ) -> LoadedVersion:
        """See that the model is the version: its adapter, its tokens and texts, its answers."""
        address, fingerprint = router.address, launch.fingerprint
        wanted = plan.adapters
        found = [(each.path, each.scale) for each in await router.loras(name)]
        if found != wanted:
            raise ProbeFailedError(
                f"{name} at {address} should have the adapters {wanted}, but lists {found}",
                advice="leave --lora out of the router's command line and of the section [*]",
            )
        if launch.facts is not None:
            await check_server(address, launch.facts, model=name)
        answers = await probe.ask(address, fingerprint, model=name) if fingerprint else None
        dress = dressing.for_router(name)
        resident = Resident("", name, None, digest)
        version = LoadedVersion(
            plan, address, launch.adapter, versions=self, resident=resident, dress=dress
        )
        version.backend = Backend(
            version,
            address,
            launch.adapter,
            fingerprint,
            answers,
            launch.facts,
            dress=dress,
            model=name,
        )
        return version

    async def _clear(self, router: RouterModels) -> None:
        """Unload what a gateway that was killed has left of this scenario; a failure is only told."""
        for name in await to_thread.run_sync(presets.names_in, self._presets):
            if name.startswith(f"{self._scenario}@") and name not in self._names:
                await self._unload_if_possible(router, name)

    async def _unload_if_possible(self, router: RouterModels, name: str) -> None:
        """End its process, and take its section out of the file."""
        try:
            try:
                await router.unload(name)
            finally:
                await to_thread.run_sync(presets.remove, self._presets, {name})
            await router.listed(reload=True)
        except ApplyError as error:  # it is tried again with the next start
            log.get(scenario=self._scenario).warning(
                log.ADAPTER_NOT_UNLOADED, model_id=name, error=str(error)
            )
