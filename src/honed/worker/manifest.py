"""`manifest.json`: everything that is needed to explain an adapter, and to train it again.

Equal seed and data give equal manifests but for ids, paths, times and memory.
"""

import os
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from honed.adapter_files import MANIFEST_FILE
from honed.domain.dataset import Dataset
from honed.domain.job import TrainJob, TrainSettings
from honed.domain.times import iso_utc
from honed.domain.trained_model import Method, Selection, TrainingMetrics
from honed.domain.verdict import Seen
from honed.worker.files import write_file

PACKAGES: Final = (
    "honed",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "datasets",
    "gguf",
)


class System(Struct, frozen=True, kw_only=True):
    """The machine that trained."""

    cpu_count: int
    platform: str
    platform_release: str
    machine: str


class Digests(Struct, frozen=True, kw_only=True):
    """SHA-256 of what went in and what came out; hex."""

    adapter: str
    """Over names and contents of the adapter's files."""
    data: str
    base_model: str
    """Over names and contents of config and weights."""
    tokenizer: str
    chat_template: str


class Manifest(Struct, frozen=True, kw_only=True):
    """The lineage of one adapter."""

    run_id: str
    model_id: str
    scenario: str
    learn_model: str
    method: Method
    method_reason: str
    """Why that one."""
    started_from: str | None
    """The adapter whose weights it began with; None: the bare base."""
    selection: Selection
    parent_id: str | None
    base_model: str
    model_family: str
    """Architecture as GGUF calls it."""
    num_parameters: int
    """Of the base model."""
    num_trainable: int
    corpus_path: str
    num_rows: int
    episode_ids: tuple[str, ...]
    seen: Seen | None
    """Which verdicts on the episodes the run went by."""
    dataset: Dataset | None
    """The rules by which the data were chosen, the seed, and all counts."""
    left_out: dict[str, int]
    """Episodes that were looked at and not learned from, by reason."""
    forks: dict[str, int]
    """Conversations of those that were, left out beside the one that is learned, by why they began."""
    settings: TrainSettings
    optimizer: str
    gradient_clipping: float
    seed: int
    device: str
    precision: str
    threads: int
    steps: int | None
    final_loss: float | None
    metrics: TrainingMetrics
    digests: Digests
    versions: dict[str, str]
    system: System
    created_at: str
    """When the run began; ISO 8601, UTC."""
    completed_at: str


class Facts(Struct, frozen=True, kw_only=True):
    """What the run found out, for its manifest."""

    model_family: str
    num_parameters: int
    num_trainable: int
    num_rows: int
    device: str
    threads: int
    metrics: TrainingMetrics
    method: Method
    method_reason: str
    started_from: str | None
    digests: Digests
    started_at: datetime


def write_manifest(folder: Path, job: TrainJob, facts: Facts) -> None:
    """Write `manifest.json` into the adapter's folder."""
    manifest = Manifest(
        run_id=job.run_id,
        model_id=job.model_id,
        scenario=job.scenario,
        learn_model=job.learn_model,
        method=facts.method,
        method_reason=facts.method_reason,
        started_from=facts.started_from,
        selection=job.selection,
        parent_id=job.parent_id,
        base_model=job.base_model,
        model_family=facts.model_family,
        num_parameters=facts.num_parameters,
        num_trainable=facts.num_trainable,
        corpus_path=job.data_path,
        num_rows=facts.num_rows,
        episode_ids=job.episode_ids,
        seen=job.seen,
        dataset=job.dataset,
        left_out=job.left_out,
        forks=job.forks,
        settings=job.settings,
        optimizer="adamw_torch",
        gradient_clipping=1.0,
        seed=job.settings.seed,
        device=facts.device,
        precision="float32" if facts.device == "cpu" else "bfloat16",
        threads=facts.threads,
        steps=facts.metrics.num_steps,
        final_loss=facts.metrics.final_loss,
        metrics=facts.metrics,
        digests=facts.digests,
        versions=versions(),
        system=System(
            cpu_count=os.cpu_count() or 1,
            platform=platform.system(),
            platform_release=platform.release(),
            machine=platform.machine(),
        ),
        created_at=iso_utc(facts.started_at),
        completed_at=iso_utc(),
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    write_file(folder / MANIFEST_FILE, text)


def versions() -> dict[str, str]:
    """Of python and of what trains."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
