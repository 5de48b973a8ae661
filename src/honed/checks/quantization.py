"""How much of its score a model keeps when it is quantised, as llama-server answers with both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from honed.checks.files import digest_of, write_json
from honed.checks.measures import QUANTIZATION, Quantization
from honed.checks.measuring import Step, work_folder
from honed.checks.run_plan import RunPlan
from honed.checks.serving import adapter_of, address_of, base_model_of, converted, post, serving
from honed.checks.test_set import write_conversations
from honed.config import ServeSection
from honed.domain.evaluating import TokeniseJob, TokeniseResult, TokenRow
from honed.domain.times import now_ms
from honed.errors import ApplyError, ValidationError
from honed.gateway.upstream import Address
from honed.processors import run_job

NUM_TOKENS: Final = 256
"""Of the test set, that are asked for one by one."""


class _Token(Struct):
    id: int


class _Position(Struct):
    top_logprobs: list[_Token] = []


class _Completion(Struct):
    completion_probabilities: list[_Position] = []


class _Tokens(Struct):
    tokens: list[int]


async def measure_quantization(
    plan: RunPlan,
    section: ServeSection,
    *,
    quantized: Path | None = None,
    reference: Path | None = None,
    merged: bool = False,
    num_tokens: int = NUM_TOKENS,
    on_step: Step = lambda done, total: None,
) -> Quantization:
    """Ask both models for the same tokens of the test set, and write `metrics/quantization.json`.

    The adapter of the plan is loaded beside both, where it is there. For each of the assistant's tokens the server is
    given all that stands before it; a token counts when it is the server's first choice.

    Args:
        plan: names the base model (for its tokenizer), the test set and the adapter.
        section: which llama-server, and how it runs.
        quantized: GGUF file; None converts the base model to q8_0.
        reference: GGUF file in full precision; None converts the base model to f32.
        merged: whether the adapter is part of both files, so that none is loaded beside them.
        num_tokens: of the test set; whole rows are asked.

    Raises:
        ValidationError: base model or test set is not named or cannot be read.
        TrainingError: a conversion failed.
        ApplyError: a server did not start, or does not answer.
    """
    folder = work_folder(plan, "quantization")
    if merged and (quantized is None or reference is None):
        raise ValidationError(
            "merged models are not converted from the base model", advice="name both files"
        )
    adapter = None if merged else adapter_of(plan)
    adapter_digest = digest_of(adapter) if adapter else None
    test = plan.splits["test"]
    digest = digest_of(test)
    rows = await _token_rows(plan, folder, num_tokens)
    quantized = quantized or await converted(plan, folder, "q8_0")
    whole = reference or await converted(plan, folder, "f32")
    total = 2 * sum(len(row.targets) for row in rows)
    longest = max(len(row.input_ids) for row in rows)
    own = section.model_copy(update={"parallel": 1, "ctx_size": max(64, longest + 1)})
    choices: list[list[int]] = []
    for name, gguf in (("quantized", quantized), ("reference", whole)):
        done = sum(map(len, choices))
        async with serving(name, gguf, adapter, own, folder) as server:
            found = await _first_choices(
                address_of(server),
                rows,
                lambda n, done=done: on_step(done + n, total),  # type: ignore[misc]
            )
        choices.append(found)
    if reference is None:
        whole.unlink()  # four bytes a parameter, and nobody serves it
    measured = _compared(rows, *choices)
    result = Quantization(
        **measured,
        quantized=str(quantized),
        reference=str(whole),
        adapter=str(adapter) if adapter else None,
        adapter_digest=adapter_digest,
        test_digest=digest,
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / QUANTIZATION, result)
    return result


async def _token_rows(plan: RunPlan, folder: Path, num_tokens: int) -> list[TokenRow]:
    data_path = folder / "test.jsonl"
    write_conversations(plan.splits["test"], data_path, text_field=plan.text_field)
    job = TokeniseJob(
        base_model=base_model_of(plan),
        data_path=str(data_path),
        result_path=str(folder / "rows.json"),
        max_length=plan.max_length,
        num_targets=num_tokens,
        chat_template=plan.chat_template,
    )
    result = await run_job(job, folder)
    assert isinstance(result, TokeniseResult)
    if not result.rows:
        raise ValidationError(
            f"no token of the test set {plan.splits['test']} counts", advice="raise max_seq_length"
        )
    return list(result.rows)


async def _first_choices(
    address: Address, rows: Sequence[TokenRow], on_done: Callable[[int], None]
) -> list[int]:
    """The server's first choice at each target of each row, in order."""
    asked = await post(address, "/tokenize", {"content": "a", "add_special": False}, _Tokens)
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
            answer = await post(address, "/completion", order, _Completion)
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
