"""One llama-server in service, and how often it is asked whether it still lives."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import anyio

from honed.domain.base_facts import BaseFacts
from honed.domain.fingerprint import Fingerprint
from honed.domain.serving import AdapterRef
from honed.gateway import probe
from honed.gateway.llama_server import LlamaServer
from honed.gateway.probe import LoraScale
from honed.gateway.upstream import Address, UpstreamError, fetch

CROWDED: Final = 32
"""Requests in flight from which on a health check may wait behind them: llama-server has 64 threads
for HTTP, and one whose client has left may hold its thread to the end.
"""


class Pulse(NamedTuple):
    """How a server that hangs is noticed; one that ends is noticed at once."""

    every_s: float = 5.0
    timeout_s: float = 5.0
    misses: int = 6
    """Health checks in a row without an answer, after which it is ended and started again."""


PULSE: Final = Pulse()

Dress = Callable[[str, bytes], bytes]
"""From a request's path and JSON body, which may be empty, to the body as one server is to have it. Raises Refused
where it cannot be told which of its adapters should answer; every request is seen, whatever its method.
"""


@dataclass(eq=False, slots=True)
class Backend:
    """A server that is proved to serve what it should, and how many requests it has."""

    server: LlamaServer
    address: Address
    adapter: AdapterRef | None
    fingerprint: Fingerprint | None
    answers: probe.Answers | None
    """What it answered to its fingerprint when it was idle; None for the bare base."""
    facts: BaseFacts | None = None
    """Those that it was compared with; None when none were known."""
    dress: Dress | None = None
    """Names the adapter in each request, on a server that has several; None where the server has this one alone."""
    lora: tuple[LoraScale, ...] | None = None
    """What a probe names instead: all adapters of the server, with their scales."""
    model: str | None = None
    """What a router calls it; None where the server has no other model."""
    in_flight: int = 0
    used_at: float = field(default_factory=time.monotonic)
    """When a request ended last, on the monotonic clock; before the first, when it came up."""
    is_heard: bool = False
    """Set by whatever comes from the server, taken back by each health check."""
    is_felt: bool = False
    """Whether its pulse is felt."""
    idle: anyio.Event = field(default_factory=anyio.Event)
    """Set when the last request has gone; made anew by the first who waits for it."""

    @property
    def is_crowded(self) -> bool:
        """Whether a health check may have to wait behind its requests."""
        return self.in_flight >= CROWDED

    @property
    def model_id(self) -> str | None:
        """The adapter; None is the bare base."""
        return self.adapter.model_id if self.adapter else None

    async def ask(self, fingerprint: Fingerprint) -> probe.Answers:
        """What it answers to the prompts of a fingerprint; raises ProbeFailedError."""
        return await probe.ask(self.address, fingerprint, lora=self.lora, model=self.model)

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        self.used_at = time.monotonic()
        if self.in_flight == 0:
            self.idle.set()

    async def drained(self) -> None:
        """Wait until its last request has gone."""
        while self.in_flight:
            if self.idle.is_set():  # else somebody waits for it as well
                self.idle = anyio.Event()
            await self.idle.wait()

    async def feel_pulse(
        self, pulse: Pulse, *, is_in_service: Callable[[], bool], is_excused: Callable[[], bool]
    ) -> bool:
        """Ask for its health until it is out of service (False), or hangs (True)."""
        misses = 0
        while misses < pulse.misses:
            await anyio.sleep(pulse.every_s)
            if not is_in_service():
                return False
            if is_excused() or self.is_heard or await self.answers_health(pulse.timeout_s):
                misses = 0
            else:
                misses += 1
            self.is_heard = False
        return is_in_service()

    async def answers_health(self, timeout_s: float) -> bool:
        """Whether it answers in time, whatever it says."""
        try:
            await fetch(self.address, "GET", "/health", timeout_s=timeout_s)
        except UpstreamError:
            return False
        return True
