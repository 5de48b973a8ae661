"""`manifest.json` and the card of a stand-alone run: everything that explains its adapter, and trains it again.

Equal seed and data give equal manifests but for the run's id, paths and times.
"""

import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from honed.adapter_files import MANIFEST_FILE
from honed.domain.base_facts import BaseDigests
from honed.domain.running import RunJob, RunResult
from honed.domain.times import iso_utc
from honed.domain.train_settings import TrainSettings
from honed.domain.trained_model import Method
from honed.worker.files import write_file
from honed.worker.manifest import System, versions

CARD: Final = "README.md"


class RunManifest(Struct, frozen=True, kw_only=True):
    """The lineage of one adapter; None where a run has no such thing."""

    run_id: str
    model_family: str
    """The model type of its config."""
    model_size: int
    """Parameters of the base model."""
    tokenizer_id: str
    """SHA-256 of the tokenizer."""
    base_model: str
    base_digest: str
    chat_template_digest: str
    method: Method
    corpus_path: str
    data_digest: str
    episode_ids: tuple[str, ...]
    """Empty: the rows come from a file."""
    num_rows: int
    num_validation_rows: int
    num_trainable: int
    settings: TrainSettings
    """All that decided the run."""
    epochs: float
    batch_size: int
    """Rows that one step learns from."""
    max_seq_len: int
    steps: int
    learning_rate: float
    optimizer: str
    gradient_clipping: float
    holdout_fraction: float
    """Rows that the run was evaluated on, of all that it was given."""
    test_split_ratio: float | None
    early_stopping_patience: int
    early_stopped: bool
    finetune_lr_cap: float | None
    freeze_embed: bool
    pretrained_run_id: str | None
    seed: int
    device: str
    precision: str
    final_loss: float | None
    mean_loss: float | None
    final_perplexity: float | None
    best_val_loss: float | None
    test_loss: float | None
    test_perplexity: float | None
    versions: dict[str, str]
    system: System
    git_commit: str | None
    """Of the folder in which the run was started."""
    created_at: str
    completed_at: str
    training_time_seconds: float | None


def run_manifest(
    job: RunJob,
    settings: TrainSettings,
    result: RunResult,
    *,
    model_family: str,
    digests: BaseDigests,
    device: str,
    started_at: datetime,
) -> RunManifest:
    """What is known at the end of a run."""
    metrics = result.metrics
    num_given = result.num_rows + result.num_validation_rows
    steps = metrics.num_steps or 0
    return RunManifest(
        run_id=job.run_id,
        model_family=model_family,
        model_size=result.num_parameters,
        tokenizer_id=digests.tokenizer,
        base_model=job.base_model,
        base_digest=digests.base_model,
        chat_template_digest=digests.chat_template,
        method=result.method,
        corpus_path=job.corpus_path,
        data_digest=job.data_digest,
        episode_ids=(),
        num_rows=result.num_rows,
        num_validation_rows=result.num_validation_rows,
        num_trainable=result.num_trainable,
        settings=settings,
        epochs=result.epochs,
        batch_size=settings.per_device_train_batch_size * settings.gradient_accumulation_steps,
        max_seq_len=settings.max_length,
        steps=steps,
        learning_rate=settings.learning_rate,
        optimizer=settings.optim,
        gradient_clipping=1.0,
        holdout_fraction=result.num_validation_rows / num_given if num_given else 0.0,
        test_split_ratio=None,
        early_stopping_patience=settings.early_stopping_patience,
        early_stopped=steps < result.total_steps,
        finetune_lr_cap=None,
        freeze_embed=True,
        pretrained_run_id=None,
        seed=settings.seed,
        device=device,
        precision=precision(settings, device),
        final_loss=metrics.final_loss,
        mean_loss=metrics.mean_loss,
        final_perplexity=_perplexity(metrics.final_loss),
        best_val_loss=metrics.extra.get("best_validation_loss"),
        test_loss=None,
        test_perplexity=None,
        versions=versions(),
        system=System(
            cpu_count=os.cpu_count() or 1,
            platform=platform.system(),
            platform_release=platform.release(),
            machine=platform.machine(),
        ),
        git_commit=_git_commit(),
        created_at=iso_utc(started_at),
        completed_at=iso_utc(datetime.now(UTC)),
        training_time_seconds=metrics.training_time_secs,
    )


def write_run_manifest(folder: Path, manifest: RunManifest) -> None:
    """Write `manifest.json` into the adapter's folder."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_file(folder / MANIFEST_FILE, text)


def write_card(folder: Path, manifest: RunManifest) -> None:
    """Write the adapter's card: where it comes from, for people and for the hub."""
    settings = manifest.settings
    head = (
        f"base_model: {manifest.base_model}\nlibrary_name: peft\ntags:\n- lora\n- {manifest.method}"
    )
    rows = {
        "base model": f"{manifest.base_model} ({manifest.model_family}, {manifest.model_size:,} parameters)",
        "base digest": manifest.base_digest,
        "method": manifest.method,
        "data": f"{manifest.corpus_path}, {manifest.num_rows} rows",
        "data digest": manifest.data_digest,
        "LoRA": f"r {settings.r}, alpha {settings.lora_alpha:g}, dropout {settings.lora_dropout:g}, "
        f"on {', '.join(settings.target_modules or ('all linear layers',))}",
        "trained": f"{manifest.num_trainable:,} parameters, {manifest.steps} steps of {manifest.batch_size} rows, "
        f"learning rate {settings.learning_rate:g}, seed {manifest.seed}",
        "final loss": _figure(manifest.final_loss),
        "best validation loss": _figure(manifest.best_val_loss),
        "completed": manifest.completed_at,
        "run": manifest.run_id,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    load = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{manifest.base_model}")\n'
        'model = PeftModel.from_pretrained(base, ".")\n'
    )
    text = (
        f"---\n{head}\n---\n\n# LoRA adapter of {Path(manifest.base_model).name}\n\n"
        f"| | |\n|---|---|\n{table}\n\n`manifest.json` has all of it.\n\n```python\n{load}```\n"
    )
    write_file(folder / CARD, text.encode())


def precision(settings: TrainSettings, device: str) -> str:
    """What was computed in."""
    return "float32" if device == "cpu" else settings.half or "bfloat16"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None or loss > 700 else math.exp(loss)


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
