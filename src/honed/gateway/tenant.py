"""A llama-server that answers for several lanes, each request with the adapter that it names.

Different prompts share its slots, so what a request leaves in a slot must not answer another adapter's. llama-server
clears a slot whose next request names other scales, if the request names all of them (measured: docs/facts.md), and its
cache in the host's memory is off. So every request carries the complete list (`dressing.for_shared`); a client's own is
taken out before (`request.read_request`).
"""

from collections.abc import Sequence
from typing import Final

import anyio

from honed.domain.base_facts import BaseDigests
from honed.domain.serving import AdapterRef
from honed.errors import ProbeFailedError
from honed.gateway import dressing, probe
from honed.gateway.backend import CROWDED, Backend
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer
from honed.gateway.parity import check_server
from honed.gateway.probe import LoraScale
from honed.gateway.upstream import Address

_NOISE: Final = 0.05
"""Nats, root mean square: how far one adapter's answers may differ between two processes of one base."""
_OTHER: Final = 0.25
"""Of what the adapter changes: more is another one."""


class SharedServer:
    """One process with several adapters. It ends with its last tenant."""

    def __init__(self, process: LlamaServer, residents: Sequence[AdapterRef]) -> None:
        self.process = process
        self.residents = tuple(residents)
        """By their place in the server's list."""
        self._base: BaseDigests | None = None
        """Of the base model that it was compared with."""
        self.tenants: set[Tenant] = set()
        self.is_settled = False
        """Whether a lane serves from it; before, the first one that leaves ends it for all."""
        self.is_over = False
        """Whether it ends, or has ended."""

    @property
    def address(self) -> Address:
        """Where it listens."""
        assert self.process.address is not None
        return self.process.address

    def has(self, adapter: AdapterRef | None) -> bool:
        """Whether it lives and could answer with this adapter; the bare base is always there."""
        is_alive = not self.is_over and not self.process.has_ended
        return is_alive and (adapter is None or adapter in self.residents)

    async def take_in(self, launch: Launch) -> Backend:
        """See that the server is what it should be for this launch, and have it answer.

        Raises:
            BaseMismatchError: it is not the base model's server.
            ProbeFailedError: it does not answer.
        """
        lora = self._lora(launch.adapter)
        tenant = Tenant(self)
        try:
            facts = launch.facts
            if facts is not None and (self._base is None or self._base != facts.digests):
                await check_server(self.address, facts)
                self._base = facts.digests
            backend = Backend(
                tenant,
                self.address,
                launch.adapter,
                launch.fingerprint,
                None,
                launch.facts,
                dress=dressing.for_shared(lora),
                lora=lora,
            )
            if launch.fingerprint is not None:
                backend.answers = await backend.ask(launch.fingerprint)
        except BaseException:
            await tenant.stop(grace_s=0)
            raise
        tenant.backend = backend
        return backend

    async def take_over(self, former: Backend) -> Backend:
        """What another server answers for a lane now, answered by this one: with the same probabilities.

        Raises:
            ProbeFailedError: it answers otherwise.
        """
        base_gguf = self.process.plan.base_gguf
        backend = await self.take_in(
            Launch(base_gguf, former.facts, former.adapter, former.fingerprint)
        )
        if backend.fingerprint is None or backend.answers is None or former.answers is None:
            return backend
        found = probe.distance(former.answers, backend.answers)
        allowed = max(_NOISE, _OTHER * probe.strength(backend.fingerprint))
        if found > allowed:
            raise ProbeFailedError(
                f"{self.process.plan.name} does not answer as {backend.model_id} does, which would move to it: "
                f"{found:.2f} nats off, {allowed:.2f} allowed"
            )
        return backend

    def _lora(self, adapter: AdapterRef | None) -> tuple[LoraScale, ...]:
        return tuple(
            LoraScale(id, 1.0 if each == adapter else 0.0) for id, each in enumerate(self.residents)
        )

    @property
    def is_crowded(self) -> bool:
        """Whether a health check may have to wait behind the requests of all."""
        backends = [tenant.backend for tenant in self.tenants if tenant.backend is not None]
        return sum(backend.in_flight for backend in backends) >= CROWDED

    async def watch(self) -> None:
        """Wait for its end; every tenant is told then."""
        await self.process.wait()
        self.is_over = True
        for tenant in list(self.tenants):
            tenant.end()

    async def leave(self, tenant: "Tenant", *, grace_s: float) -> None:
        """Count a tenant out; the last one ends the process."""
        self.tenants.discard(tenant)
        if not (self.tenants and self.is_settled):
            self.is_over = True
            await self.process.stop(grace_s=grace_s)


class Tenant(LlamaServer):
    """One lane's part of a shared server: to the lane it is its llama-server."""

    def __init__(self, home: SharedServer) -> None:
        self.plan = home.process.plan
        self.address = home.address
        self.is_stopping = False
        self.answers_with = None
        self.is_exchanging = False
        self.verdict: str | None = None
        self.home = home
        self.backend: Backend | None = None
        self._over = anyio.Event()
        home.tenants.add(self)

    @property
    def pid(self) -> int:
        """That of the process, which is others' as well."""
        return self.home.process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, or this lane has left."""
        return self._over.is_set() or self.home.process.has_ended

    def end(self) -> None:
        """It answers no more."""
        self._over.set()

    async def wait(self) -> int:
        """Wait until the process has ended, or this lane has left."""
        await self._over.wait()
        return await self.home.process.wait() if not self.is_stopping else 0

    async def stop(self, *, grace_s: float = 1) -> None:
        """Leave; the process goes on while others need it."""
        self.is_stopping = True
        self._over.set()
        await self.home.leave(self, grace_s=grace_s)

    def kill(self, verdict: str) -> None:
        """End the process: it hangs for all of them."""
        for tenant in self.home.tenants:
            tenant.verdict = verdict
        self.home.process.kill(verdict)
