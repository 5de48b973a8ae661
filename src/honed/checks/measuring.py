"""Base model and adapter on the same test set, measured in a worker process: baseline and evaluation."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from honed.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from honed.checks.files import digest_of, read_json, write_json
from honed.checks.improvement import accuracy, interval
from honed.checks.measures import (
    ASSISTANT_TOKEN_ACCURACY,
    BASELINE,
    EVALUATION,
    Baseline,
    Evaluation,
    Tokens,
)
from honed.checks.run_plan import RunPlan
from honed.checks.test_set import write_conversations
from honed.domain.evaluating import EvaluateJob, EvaluateResult, Foretold
from honed.domain.job import Device, Progress
from honed.domain.times import now_ms
from honed.errors import ValidationError
from honed.processors import run_job

Step = Callable[[int, int], None]
"""Told how much is done, of how much."""

IMPROVEMENT: Final = 20.0
"""Points that an adapter must gain, where nobody says otherwise."""
_WORK: Final = "work"
"""Under `metrics/`: job, test set and log of the worker that measured last."""


async def measure_baseline(
    plan: RunPlan,
    *,
    improvement: float = IMPROVEMENT,
    device: Device = "auto",
    threads: int = 0,
    on_step: Step = lambda done, total: None,
) -> Baseline:
    """Measure the base model on the test set and write `metrics/baseline.json`.

    Raises:
        ValidationError: base model or test set is not named or cannot be read.
        TrainingError: the worker failed.
    """
    if plan.base_model is None:
        raise ValidationError(
            "no base model is named", advice="name it by --base-model, or model.name in the config"
        )
    digest = digest_of(plan.splits["test"])
    job = _job(plan, plan.base_model, None, plan.max_length, device, threads)
    rows = await _measured(plan, job, on_step)
    score = accuracy(_tokens(rows))
    if score is None:
        raise ValidationError(
            f"no token of the test set {plan.splits['test']} counts: every answer is beyond max_length",
            advice="raise max_seq_length",
        )
    baseline = Baseline(
        score=score,
        test_digest=digest,
        target=score + improvement,
        base_model=plan.base_model,
        loss=_loss(rows),
        num_tokens=sum(row.num_tokens for row in rows),
        max_length=plan.max_length,
        rows=_tokens(rows),
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / BASELINE, baseline)
    return baseline


async def measure_adapter(
    plan: RunPlan,
    *,
    device: Device = "auto",
    threads: int = 0,
    on_step: Step = lambda done, total: None,
) -> Evaluation:
    """Measure the adapter on the baseline's test set and write `metrics/evaluation.json` with the comparison.

    Raises:
        ValidationError: there is no baseline or no adapter, or test set, metric or base model are others than the
            baseline's.
        TrainingError: the worker failed.
    """
    baseline = _baseline(plan)
    base_model = plan.base_model or baseline.base_model
    if base_model is None:
        raise ValidationError("no base model is named", advice="name it by --base-model")
    if not (plan.adapter_path / ADAPTER_CONFIG).is_file():
        raise ValidationError(
            f"{plan.adapter_path} holds no adapter: it has no adapter_config.json",
            advice="name the folder by --adapter, or save.lora_path in the config",
        )
    adapter_digest = digest_of(plan.adapter_path / ADAPTER_WEIGHTS)
    max_length = baseline.max_length or plan.max_length
    job = _job(plan, base_model, plan.adapter_path, max_length, device, threads)
    rows = await _measured(plan, job, on_step)
    score = accuracy(_tokens(rows)) or 0.0
    sure = interval(baseline.rows, _tokens(rows))
    evaluation = Evaluation(
        score=score,
        baseline_score=baseline.score,
        improvement=score - baseline.score,
        target=baseline.target,
        passed=score >= baseline.target,
        test_digest=baseline.test_digest,
        improvement_low=sure[0] if sure else None,
        improvement_high=sure[1] if sure else None,
        base_model=base_model,
        adapter=str(plan.adapter_path),
        adapter_digest=adapter_digest,
        loss=_loss(rows),
        baseline_loss=baseline.loss,
        num_tokens=sum(row.num_tokens for row in rows),
        rows=_tokens(rows),
        measured_at=now_ms(),
    )
    write_json(plan.metrics_dir / EVALUATION, evaluation)
    return evaluation


def _baseline(plan: RunPlan) -> Baseline:
    """The baseline, where it is one that the adapter can be compared with."""
    path, again = plan.metrics_dir / BASELINE, "`honed gate baseline` measures it"
    baseline = read_json(path, Baseline)
    if baseline is None:
        raise ValidationError(f"{path} does not exist: nothing to compare with", advice=again)
    test = plan.splits["test"]
    if baseline.test_digest != digest_of(test):
        raise ValidationError(f"{path} was measured on another test set than {test}", advice=again)
    if baseline.metric != ASSISTANT_TOKEN_ACCURACY:
        raise ValidationError(
            f"{path} holds {baseline.metric}, which honed does not measure",
            advice=f"whoever measured it writes {plan.metrics_dir / EVALUATION} too",
        )
    if plan.base_model and baseline.base_model and plan.base_model != baseline.base_model:
        raise ValidationError(
            f"{path} is of the base model {baseline.base_model}, not of {plan.base_model}",
            advice=again,
        )
    return baseline


def _job(
    plan: RunPlan,
    base_model: str,
    adapter: Path | None,
    max_length: int,
    device: Device,
    threads: int,
) -> EvaluateJob:
    folder = work_folder(plan, "adapter" if adapter else "baseline")
    return EvaluateJob(
        base_model=base_model,
        adapter_path=str(adapter.absolute()) if adapter else None,
        data_path=str(folder / "test.jsonl"),
        result_path=str(folder / "result.json"),
        max_length=max_length,
        device=device,
        threads=threads,
        chat_template=plan.chat_template,
    )


def work_folder(plan: RunPlan, name: str) -> Path:
    """Where a worker's files lie; they stay for whoever wonders."""
    return plan.metrics_dir.absolute() / _WORK / name


async def _measured(plan: RunPlan, job: EvaluateJob, on_step: Step) -> list[Foretold]:
    def on_progress(progress: Progress) -> None:
        if progress.step is not None and progress.total_steps is not None:
            on_step(progress.step, progress.total_steps)

    write_conversations(plan.splits["test"], Path(job.data_path), text_field=plan.text_field)
    result = await run_job(job, Path(job.result_path).parent, on_progress)
    assert isinstance(result, EvaluateResult)
    return list(result.rows)


def _tokens(rows: list[Foretold]) -> tuple[Tokens, ...]:
    return tuple(Tokens(row.num_tokens, row.num_correct) for row in rows)


def _loss(rows: list[Foretold]) -> float | None:
    total = sum(row.num_tokens for row in rows)
    loss = -math.fsum(row.log_prob for row in rows) / max(total, 1)
    return loss if total and math.isfinite(loss) else None
