"""What llama-server makes of a model: how much of its score quantisation keeps, how fast it answers, what it takes.

Servers are started for the measurement alone, on a free port, one slot, and are gone when it ends.
"""

import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import anyio.to_thread
import msgspec
from msgspec import Struct

from honed.adapter_files import ADAPTER_GGUF
from honed.checks.files import digest_of, write_json
from honed.checks.measures import DEPLOYMENT, QUANTIZATION, Deployment, Quantization
from honed.checks.measuring import work_folder
from honed.checks.run_plan import RunPlan
from honed.checks.test_set import conversations, write_conversations
from honed.config import ServeSection
from honed.domain.evaluating import TokeniseJob, TokeniseResult, TokenRow
from honed.domain.job import ExportBaseJob
from honed.domain.times import now_ms
from honed.errors import ApplyError, ValidationError
from honed.gateway import llama_server
from honed.gateway.llama_server import LlamaServer, ServerPlan
from honed.gateway.upstream import Address, UpstreamError, fetch
from honed.lifeline import descendants
from honed.machine.gpus import gpus
from honed.processors import run_job

NUM_TOKENS: Final = 256
"""Of the test set, that are asked for one by one."""
NUM_REQUESTS: Final = 3
GENERATED: Final = 64
"""Tokens of each request whose speed is measured."""
_GB: Final = 1e9
_LIMIT_S: Final = 600.0
"""How long one answer may take; a large model reads its prompt slowly on a CPU."""

Step = Callable[[int, int], None]
"""Told how many tokens are done, of how many."""


class _Token(Struct):
    id: int


class _Position(Struct):
    top_logprobs: list[_Token] = []


class _Completion(Struct):
    completion_probabilities: list[_Position] = []


class _Tokens(Struct):
    tokens: list[int]


class _Timings(Struct):
    predicted_n: int
    predicted_per_second: float


class _Chat(Struct):
    timings: _Timings


async def measure_quantization(
    plan: RunPlan,
    section: ServeSection,
    *,
    quantized: Path | None = None,
    reference: Path | None = None,
    num_tokens: int = NUM_TOKENS,
    on_step: Step = lambda done, total: None,
) -> Quantization:
    """Ask both models for the same tokens of the test set, and write `metrics/quantization.json`.

    The adapter of the plan is in both, where it is there. For each of the assistant's tokens the server is given all
    that stands before it; a token counts when it is the server's first choice.

    Args:
        plan: names the base model (for its tokenizer), the test set and the adapter.
        section: which llama-server, and how it runs.
        quantized: GGUF file; None converts the base model to q8_0.
        reference: GGUF file in full precision; None converts the base model to f32.
        num_tokens: of the test set; whole rows are asked.

    Raises:
        ValidationError: base model or test set is not named or cannot be read.
        TrainingError: a conversion failed.
        ApplyError: a server did not start, or does not answer.
    """
    folder = work_folder(plan, "quantization")
    adapter = adapter_of(plan)
    test = plan.splits["test"]
    digest = digest_of(test)
    rows = await _token_rows(plan, folder, num_tokens)
    quantized = quantized or await _converted(plan, folder, "q8_0")
    reference = reference or await _converted(plan, folder, "f32")
    total = 2 * sum(len(row.targets) for row in rows)
    longest = max(len(row.input_ids) for row in rows)
    own = section.model_copy(update={"parallel": 1, "ctx_size": max(64, longest + 1)})
    choices: list[list[int]] = []
    for name, gguf in (("quantized", quantized), ("reference", reference)):
        done = sum(map(len, choices))
        async with _server(name, gguf, adapter, own, folder) as server:
            found = await _first_choices(
                _address(server),
                rows,
                lambda n, done=done: on_step(done + n, total),  # type: ignore[misc]
            )
        choices.append(found)
    measured = _compared(rows, *choices)
    result = Quantization(
        **measured,
        quantized=str(quantized),
        reference=str(reference),
        adapter=str(adapter) if adapter else None,
        test_digest=digest,
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / QUANTIZATION, result)
    return result


async def measure_deployment(
    plan: RunPlan, section: ServeSection, *, model: Path | None = None
) -> Deployment:
    """Serve the model as it would be, let it answer prompts of the test set, and write `metrics/deployment.json`.

    Args:
        plan: names the test set, the adapter, and the base model where no file is given.
        section: which llama-server, and how it runs.
        model: GGUF file; None converts the base model to q8_0.

    Raises:
        ValidationError: the test set cannot be read, or the server told no speed.
        ApplyError: the server did not start, or does not answer.
    """
    folder = work_folder(plan, "deployment")
    adapter = adapter_of(plan)
    prompts = _prompts(plan)
    gguf = model or await _converted(plan, folder, "q8_0")
    before = await anyio.to_thread.run_sync(_gpu_bytes)
    async with _server("deployment", gguf, adapter, section, folder) as server:
        speeds = [await _speed(_address(server), prompt) for prompt in prompts]
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
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / DEPLOYMENT, result)
    return result


def adapter_of(plan: RunPlan) -> Path | None:
    """The adapter's GGUF file; None where there is no adapter.

    Raises:
        ValidationError: there is an adapter without one.
    """
    if not plan.adapter_path.is_dir():
        return None
    path = plan.adapter_path / ADAPTER_GGUF
    if not path.is_file():
        raise ValidationError(
            f"the adapter {plan.adapter_path} has no {ADAPTER_GGUF}: llama-server cannot load it",
            advice="export it as GGUF, or name another folder by --adapter",
        )
    return path.absolute()


def peak_resident(pids: Iterable[int]) -> int:
    """Bytes that processes held in memory at their most, each for itself; those that are gone count nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


async def _token_rows(plan: RunPlan, folder: Path, num_tokens: int) -> list[TokenRow]:
    data_path = folder / "test.jsonl"
    write_conversations(plan.splits["test"], data_path, text_field=plan.text_field)
    job = TokeniseJob(
        base_model=_base_model(plan),
        data_path=str(data_path),
        result_path=str(folder / "rows.json"),
        max_length=plan.max_length,
        num_targets=num_tokens,
    )
    result = await run_job(job, folder)
    assert isinstance(result, TokeniseResult)
    if not result.rows:
        raise ValidationError(
            f"no token of the test set {plan.splits['test']} counts", advice="raise max_seq_length"
        )
    return list(result.rows)


async def _converted(plan: RunPlan, folder: Path, outtype: Literal["f32", "q8_0"]) -> Path:
    path = folder / f"base-{outtype}.gguf"
    job = ExportBaseJob(
        base_model=_base_model(plan),
        output_path=str(path),
        result_path=str(folder / f"{outtype}.json"),
        outtype=outtype,
    )
    await run_job(job, folder)
    return path


def _base_model(plan: RunPlan) -> str:
    if plan.base_model is None:
        raise ValidationError(
            "no base model is named", advice="name it by --base-model, or model.name in the config"
        )
    return plan.base_model


@contextlib.asynccontextmanager
async def _server(
    name: str, gguf: Path, adapter: Path | None, section: ServeSection, folder: Path
) -> AsyncIterator[LlamaServer]:
    plan = ServerPlan(
        name=name,
        alias=name,
        base_gguf=_whole_path(gguf),
        adapter_gguf=adapter,
        section=section,
        folder=folder,
    )
    server = await llama_server.start(plan)
    try:
        yield server
    finally:
        await server.stop()


def _whole_path(gguf: Path) -> Path:
    if not gguf.is_file():
        raise ValidationError(f"{gguf} does not exist", advice="name a GGUF file")
    return gguf.absolute()


def _address(server: LlamaServer) -> Address:
    assert server.address is not None
    return server.address


async def _first_choices(
    address: Address, rows: Sequence[TokenRow], on_done: Callable[[int], None]
) -> list[int]:
    """The server's first choice at each target of each row, in order."""
    asked = await _post(address, "/tokenize", {"content": "a", "add_special": False}, _Tokens)
    printable = asked.tokens[0]
    found: list[int] = []
    for row in rows:
        for position in row.targets:
            order = {
                "prompt": row.input_ids[:position],
                "n_predict": 1,
                "n_probs": 1,
                "temperature": 0,
                "cache_prompt": True,
                # After an incomplete token llama-server leaves the probabilities out: a whole one is forced, and
                # what comes back is what stood before that.
                "logit_bias": [[printable, 1000]],
            }
            answer = await _post(address, "/completion", order, _Completion)
            if (
                not answer.completion_probabilities
                or not answer.completion_probabilities[0].top_logprobs
            ):
                raise ApplyError(f"{address} answered without probabilities")
            found.append(answer.completion_probabilities[0].top_logprobs[0].id)
            on_done(len(found))
    return found


def _compared(
    rows: Sequence[TokenRow], quantized: list[int], reference: list[int]
) -> dict[str, Any]:
    right = [row.input_ids[position] for row in rows for position in row.targets]
    score, full = (100 * _share_equal(found, right) for found in (quantized, reference))
    return {
        "retention": 100 * score / full if full else None,
        "score": score,
        "reference_score": full,
        "agreement": 100 * _share_equal(quantized, reference),
        "num_tokens": len(right),
    }


def _share_equal(one: Sequence[int], other: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


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
    answer: _Chat = await _post(address, "/v1/chat/completions", order, _Chat)
    return answer.timings


async def _post(address: Address, path: str, order: object, kind: type[Any]) -> Any:
    try:
        body = msgspec.json.encode(order)
        status, answer = await fetch(address, "POST", path, body, timeout_s=_LIMIT_S)
        if status != 200:
            raise ApplyError(f"{address}{path} answered with status {status}: {answer[:200]!r}")
        return msgspec.json.decode(answer, type=kind)
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ApplyError(f"{address}{path} did not answer as expected: {error}") from error


def _gpu_bytes() -> int:
    return sum(card.used for card in gpus().cards)
