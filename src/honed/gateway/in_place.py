"""A running server's adapters exchanged for others, and proof that no cache of the former ones answers."""

from pathlib import Path

import anyio
from msgspec.structs import replace

from honed import log
from honed.domain.fingerprint import Fingerprint
from honed.errors import ApplyError
from honed.gateway import probe, runtime
from honed.gateway.backend import Backend
from honed.gateway.launch import Launch
from honed.gateway.llama_server import LlamaServer
from honed.gateway.parity import check_server
from honed.gateway.runtime import Runtime


class Exchange:
    """One exchange: made, then finished or undone. Nothing may be in flight at the server meanwhile."""

    def __init__(self, before: Runtime, adapter: Path | None) -> None:
        """Of the server as it is `before`, to answer with `adapter` alone.

        Raises:
            ApplyError: it could not.
        """
        before.check(adapter)
        self._before = before
        self._adapter = adapter

    async def make(self, asked: Fingerprint | None) -> probe.Answers | None:
        """Exchange, and see with the fingerprint's longest prompt that no slot remembers the former adapter.

        Returns:
            What the server answered before; None without a fingerprint.

        Raises:
            ProbeFailedError: it answers from a cache of the former adapter.
            ApplyError: it did not do it.
        """
        if asked is None:
            await self._before.put(self._adapter)
            return None
        address = self._before.address
        former = await probe.ask(address, asked)
        longest = max(asked.prompts, key=lambda prompt: len(prompt.prompt_ids))
        one = replace(asked, prompts=(longest,))
        [former_one, *_] = await runtime.ask_each_slot(self._before, one, has_cache=False)
        await runtime.ask_each_slot(self._before, one)  # so that they have something to remember
        await self._before.put(self._adapter)
        remembered = await runtime.ask_each_slot(self._before, one)
        runtime.find_stale(remembered, await probe.ask(address, one), former_one)
        return former

    async def undo(self) -> None:
        """Go back; a server that does not is told in the log, its pulse decides."""
        try:
            await self._before.restore()
        except ApplyError as error:
            log.get(address=str(self._before.address)).error(
                log.ADAPTER_NOT_UNLOADED, error=str(error)
            )

    async def finish(self) -> None:
        """Drop the former adapters, where the server can."""
        for path in self._before.applied:
            try:
                await self._before.unload(Path(path))
            except ApplyError as error:
                log.get(adapter=path).warning(log.ADAPTER_NOT_UNLOADED, error=str(error))


async def take(launch: Launch, server: LlamaServer) -> Backend:
    """Have a server that the operator runs answer with the adapter of `launch`, or with the base where it cannot.

    Raises:
        BaseMismatchError: it is not the base model's server.
        ProbeFailedError: it answers from caches of another adapter.
        ApplyError: it does not tell what it has, or does not do it.
    """
    assert server.address is not None
    if launch.facts is not None:
        await check_server(server.address, launch.facts)
    found = await runtime.ask(server.address)
    adapter, fingerprint, path = launch.adapter, launch.fingerprint, launch.adapter_gguf
    if path is not None and not found.has(path):
        log.get(model_id=launch.adapter.model_id if launch.adapter else None).warning(
            log.PROBE_UNSURE, reason=f"{server.address} cannot serve it: the base model answers"
        )
        adapter = fingerprint = path = None
    if found.applied != ([str(path)] if path else []):
        exchange = Exchange(found, path)
        try:
            await exchange.make(fingerprint)
        except BaseException:
            # left as it is, the next try would find the adapter there and nothing to prove
            with anyio.CancelScope(shield=True):
                await exchange.undo()
            raise
    server.answers_with = path
    answers = await probe.ask(server.address, fingerprint) if fingerprint else None
    return Backend(server, server.address, adapter, fingerprint, answers, launch.facts)
