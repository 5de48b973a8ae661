"""How fast llama-server answers with a model, and how much memory it takes."""

import contextlib
import statistics
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from msgspec import Struct

from honed.checks.files import digest_of, write_json
from honed.checks.measures import DEPLOYMENT, Deployment
from honed.checks.measuring import work_folder
from honed.checks.run_plan import RunPlan
from honed.checks.serving import adapter_of, address_of, converted, post, serving
from honed.checks.test_set import conversations
from honed.config import ServeSection
from honed.domain.times import now_ms
from honed.errors import ValidationError
from honed.gateway.upstream import Address
from honed.lifeline import descendants
from honed.machine.gpus import gpus

NUM_REQUESTS: Final = 3
GENERATED: Final = 64
"""Tokens of each request whose speed is measured."""
_GB: Final = 1e9


class _Timings(Struct):
    predicted_n: int
    predicted_per_second: float


class _Chat(Struct):
    timings: _Timings


async def measure_deployment(
    plan: RunPlan, section: ServeSection, *, model: Path | None = None, merged: bool = False
) -> Deployment:
    """Serve the model as it would be, let it answer prompts of the test set, and write `metrics/deployment.json`.

    Args:
        plan: names the test set, the adapter, and the base model where no file is given.
        section: which llama-server, and how it runs.
        model: GGUF file; None converts the base model to q8_0.
        merged: whether the adapter is part of it, so that none is loaded beside it.

    Raises:
        ValidationError: the test set cannot be read, or the server told no speed.
        ApplyError: the server did not start, or does not answer.
    """
    folder = work_folder(plan, "deployment")
    if merged and model is None:
        raise ValidationError(
            "a merged model is not converted from the base model", advice="name its file"
        )
    adapter = None if merged else adapter_of(plan)
    adapter_digest = digest_of(adapter) if adapter else None
    prompts = _prompts(plan)
    gguf = model or await converted(plan, folder, "q8_0")
    before = await anyio.to_thread.run_sync(_gpu_bytes)
    async with serving("deployment", gguf, adapter, section, folder) as server:
        speeds = [await _speed(address_of(server), prompt) for prompt in prompts]
        on_gpu = max(0, await anyio.to_thread.run_sync(_gpu_bytes) - before)
        resident = peak_resident([server.pid, *descendants(server.pid)])
    result = Deployment(
        tokens_per_second=statistics.median(speed.predicted_per_second for speed in speeds),
        memory_gb=(resident + on_gpu) / _GB,
        gpu_memory_gb=on_gpu / _GB,
        num_requests=len(speeds),
        num_tokens=sum(speed.predicted_n for speed in speeds),
        model=str(gguf),
        adapter=str(adapter) if adapter else None,
        adapter_digest=adapter_digest,
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / DEPLOYMENT, result)
    return result


def peak_resident(pids: Iterable[int]) -> int:
    """Bytes that processes held in memory at their most, each for itself; those that are gone count nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


def _prompts(plan: RunPlan) -> list[list[dict[str, Any]]]:
    """What stands before the last answer of the first conversations."""
    rows = conversations(plan.splits["test"], text_field=plan.text_field)
    prompts = []
    for row in islice(rows, NUM_REQUESTS):
        turns = list(row["messages"])
        while turns and turns.pop()["role"] != "assistant":
            pass
        if turns:
            prompts.append(turns)
    if not prompts:
        raise ValidationError(f"the test set {plan.splits['test']} has no conversation to ask with")
    return prompts


async def _speed(address: Address, messages: list[dict[str, Any]]) -> _Timings:
    order = {
        "messages": messages,
        "max_tokens": GENERATED,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    answer: _Chat = await post(address, "/v1/chat/completions", order, _Chat)
    return answer.timings


def _gpu_bytes() -> int:
    return sum(card.used for card in gpus().cards)
