"""How a server is doing: asked of it when somebody wants to know, never by itself."""

from typing import Final
from urllib.parse import quote

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

from honed.domain.serving import ServerVitals
from honed.gateway.backend import Backend
from honed.gateway.strategy import private_bytes_of_all
from honed.gateway.upstream import Address, UpstreamError, fetch

_TIMEOUT_S: Final = 2.0
_METRICS: Final = {
    "llamacpp:requests_deferred": "deferred",
    "llamacpp:prompt_tokens_total": "prompt_tokens",
    "llamacpp:prompt_tokens_cached_total": "cached_tokens",
    "llamacpp:tokens_predicted_total": "generated_tokens",
    "llamacpp:predicted_tokens_seconds": "generated_per_s",
    # "Production Metrics" of vLLM's documentation; hits are counted in tokens
    "vllm:num_requests_waiting": "deferred",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prefix_cache_hits_total": "cached_tokens",
    "vllm:generation_tokens_total": "generated_tokens",
    # "Production Metrics" of SGLang's, with --enable-metrics
    "sglang:num_queue_reqs": "deferred",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:cached_tokens_total": "cached_tokens",
    "sglang:generation_tokens_total": "generated_tokens",
    "sglang:gen_throughput": "generated_per_s",
}
"""What servers call what is told of them."""


class _Slot(Struct):
    is_processing: bool = False
    n_ctx: int = 0


async def vitals(backend: Backend) -> ServerVitals:
    """What the server says of itself, and what the kernel says of it; what it does not say is None."""
    address = backend.address
    which = "" if backend.model is None else f"?model={quote(backend.model, safe='')}"
    health, slots, metrics = None, None, {}

    async def ask_health() -> None:
        nonlocal health
        health = await _ask(address, "/health")

    async def ask_slots() -> None:
        nonlocal slots
        slots = _slots(await _ask(address, f"/slots{which}"))

    async def ask_metrics() -> None:
        nonlocal metrics
        metrics = _metrics(await _ask(address, f"/metrics{which}"))

    async with anyio.create_task_group() as asking:
        for each in (ask_health, ask_slots, ask_metrics):
            asking.start_soon(each)
    pid = None if backend.server.is_external else backend.server.pid
    return ServerVitals(
        model_id=backend.model_id,
        address=str(address),
        pid=pid,
        is_healthy=health is not None,
        slots=len(slots) if slots is not None else None,
        busy_slots=sum(slot.is_processing for slot in slots) if slots is not None else None,
        ctx_size=min((slot.n_ctx for slot in slots), default=None) if slots else None,
        deferred=_count(metrics.get("deferred")),
        prompt_tokens=_count(metrics.get("prompt_tokens")),
        cached_tokens=_count(metrics.get("cached_tokens")),
        generated_tokens=_count(metrics.get("generated_tokens")),
        generated_per_s=metrics.get("generated_per_s"),
        private_bytes=await to_thread.run_sync(private_bytes_of_all, pid) if pid else None,
        log=str(backend.server.plan.log_path) if pid else None,
    )


async def _ask(address: Address, path: str) -> bytes | None:
    """The answer, when it is a good one."""
    try:
        status, body = await fetch(address, "GET", path, timeout_s=_TIMEOUT_S)
    except UpstreamError:
        return None
    return body if status == 200 else None


def _slots(body: bytes | None) -> list[_Slot] | None:
    try:
        return msgspec.json.decode(body, type=list[_Slot]) if body is not None else None
    except msgspec.DecodeError:
        return None


def _metrics(body: bytes | None) -> dict[str, float]:
    """Of lines as `llamacpp:requests_deferred 2` those that are told, added up over labels (`{engine="0"}`); what is no
    number is passed over.
    """
    found: dict[str, float] = {}
    for line in (body or b"").decode(errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        told = _METRICS.get(name.partition("{")[0])
        if told is not None:
            try:
                found[told] = found.get(told, 0.0) + float(value)
            except ValueError:
                continue
    return found


def _count(value: float | None) -> int | None:
    return None if value is None else int(value)
