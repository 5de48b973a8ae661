"""What a server is launched with, and what it must show before it may serve."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyio import to_thread

from honed import log
from honed.adapter_files import ADAPTER_GGUF
from honed.config import ServeSection
from honed.domain.base_facts import BaseFacts
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef
from honed.errors import ApplyError
from honed.gateway import probe
from honed.gateway.adapter import see_adapter
from honed.gateway.backend import Backend
from honed.gateway.llama_server import LlamaServer, ServerPlan
from honed.gateway.parity import check_server, facts_for

COLOURS: Final = ("blue", "green", "red", "yellow", "violet")
"""Names of servers: the live one and the one that follows it; one more for a server that dies while the one before it
still drains; a candidate, and the one before it.
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """A base model, perhaps an adapter, and what is known of both; their files have been looked at."""

    base_gguf: Path | None
    """None: of a server that the operator runs, not known."""
    facts: BaseFacts | None
    adapter: AdapterRef | None
    fingerprint: Fingerprint | None

    @property
    def adapter_gguf(self) -> Path | None:
        """The adapter's file."""
        return gguf_of(self.adapter) if self.adapter else None

    def plan(
        self, scenario: str, section: ServeSection, folder: Path, *, taken: Collection[str]
    ) -> ServerPlan:
        """How the server is started; its name is none of those that are taken."""
        names = [f"{scenario}-{colour}" for colour in COLOURS]
        return ServerPlan(
            name=next(name for name in names if name not in taken),
            alias=scenario,
            base_gguf=self.base_gguf or Path(),
            adapter_gguf=self.adapter_gguf,
            section=section,
            folder=folder,
        )

    async def examine(self, server: LlamaServer) -> Backend:
        """See that a healthy server has the adapter's file and reads and renders as training does;
        ask it the fingerprint.

        Raises:
            BaseMismatchError: it is not the base model's server.
            ProbeFailedError: it has another adapter, or does not answer.
        """
        await server.check_adapters()
        assert server.address is not None
        if self.facts is not None:
            await check_server(server.address, self.facts)
        answers = None
        if self.fingerprint is not None:
            answers = await probe.ask(server.address, self.fingerprint)
        return Backend(server, server.address, self.adapter, self.fingerprint, answers, self.facts)


def gguf_of(adapter: AdapterRef) -> Path:
    """The adapter's file."""
    return Path(adapter.path) / ADAPTER_GGUF


async def see_files(
    scenario: str,
    section: ServeSection,
    base_gguf: Path | None,
    base_facts: Path | None,
    adapter: AdapterRef | None,
) -> Launch:
    """Look at everything that a server is launched with; nothing is started.

    Args:
        scenario: whose server it is.
        section: what the server is; one that the operator has started needs no base model of ours.
        base_gguf: the base model.
        base_facts: file with the facts about it.
        adapter: what it is to have.

    Raises:
        BaseMismatchError: the base model is another one than its facts say.
        AdapterNotFoundError: the adapter's files are not there, or others.
        ForeignAdapterError: the adapter belongs to another base model.
        ApplyError: there is no base model yet.
    """

    if section.lora_server is not None:
        base_gguf = None  # it has its own

    def look() -> Launch:
        facts = facts_for(base_gguf, base_facts, scenario=scenario) if base_gguf else None
        fingerprint = see_adapter(adapter, facts) if adapter else None
        if base_gguf is None and not section.brings_base:
            raise ApplyError(
                f"{scenario}: the gateway has no base model for it yet",
                advice="set base_model or serve.base_model_path",
            )
        return Launch(base_gguf, facts, adapter, fingerprint)

    return await to_thread.run_sync(look)


def warn_if_unsure(backend: Backend, *, scenario: str) -> None:
    """Say so when a server that comes up alone does not answer as its adapter clearly should.

    The adapter was proved when it was applied, and its path and files are right. Without a former
    server, quantisation alone can move the answers further than a weak adapter does: it is served.
    """
    if backend.fingerprint is None or backend.answers is None:
        return
    proof = probe.compare(backend.fingerprint, None, backend.answers, None)
    if not proof.is_accepted:
        log.get(scenario=scenario).warning(log.PROBE_UNSURE, **proof.facts())
