"""A TrainJob from beginning to end: rows, LoRA, adapter folder, fingerprint, scores.

What is scored and fingerprinted is the adapter as it was written, loaded onto a fresh base: the
trainer leaves its own model patched.
"""

import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from honed.adapter_files import adapter_digest, file_digest
from honed.domain.base_facts import BaseDigests
from honed.domain.job import EpisodeScore, Progress, TrainJob, TrainResult
from honed.domain.trained_model import TrainingMetrics
from honed.worker.adapted import AdaptedModel
from honed.worker.architectures import Architecture
from honed.worker.base_model import (
    base_folder,
    choose_device,
    half_of,
    load_config,
    load_model,
    load_tokenizer,
    set_threads,
)
from honed.worker.export import export_adapter
from honed.worker.files import sync_folder
from honed.worker.fingerprint import fingerprint_of, write_fingerprint
from honed.worker.home import digests_of
from honed.worker.lora import check_servable, other_shape, started_from
from honed.worker.lora_targets import check_targets
from honed.worker.manifest import Digests, Facts, write_manifest
from honed.worker.material import Material, Plan, material_of, plan
from honed.worker.probe import probe_kl
from honed.worker.reporting import Report
from honed.worker.scores import CANDIDATE, INCUMBENT, read_held_out, score_episodes
from honed.worker.smaller import that_fits
from honed.worker.split import read_groups, split_rows
from honed.worker.trackers import use_trackers


class _Base(NamedTuple):
    """The base model of a run."""

    folder: Path
    config: Any
    architecture: Architecture
    tokenizer: Any
    digests: BaseDigests
    device: str
    threads: int


class _Tuned(NamedTuple):
    """What came out of the trainer."""

    material: Material
    metrics: TrainingMetrics
    num_parameters: int
    """Of the base model."""
    num_trainable: int


def train(job: TrainJob, report: Report) -> TrainResult:
    """Do a TrainJob; `output_path` then holds the whole adapter, synced to disk.

    Raises:
        EmptyDataError: the data cannot teach by the method; no row holds an assistant token within `max_length`.
        TrainingError: the base model cannot be served or loaded, or the loss is not finite.
    """
    started_at = datetime.now(UTC)
    use_trackers(job.settings.report_to, Path(job.result_path or job.output_path).parent)
    base = _open_base(job)
    output = Path(job.output_path)
    output.mkdir(parents=True, exist_ok=True)
    learning = plan(job, base.config, base.architecture, base.tokenizer)
    job = msgspec.structs.replace(job, settings=learning.settings)
    job, start, chosen = _start(job, base, learning.chosen)
    job, tuned = _fine_tune_that_fits(job, base, learning, start, report)
    report(Progress(phase="exporting"))
    export_adapter(output, base.config, base.architecture)
    adapters = {CANDIDATE: output}
    if job.incumbent_path is not None:
        adapters[INCUMBENT] = Path(job.incumbent_path)
    model = AdaptedModel(base.folder, base.device, adapters)
    write_fingerprint(output, fingerprint_of(model, base.tokenizer, adapter=CANDIDATE))
    metrics = msgspec.structs.replace(
        tuned.metrics, probe_kl=_probe_kl(job, base, model), chosen_settings=chosen
    )
    scores = _scores(job, base, model, report)
    digests = _digests(job, base, output)
    facts = Facts(
        model_family=base.architecture.gguf_name,
        num_parameters=tuned.num_parameters,
        num_trainable=tuned.num_trainable,
        num_rows=len(tuned.material.rows),
        device=base.device,
        threads=base.threads,
        metrics=metrics,
        method=learning.method,
        method_reason=learning.reason,
        started_from=start.name if start else None,
        digests=digests,
        started_at=started_at,
    )
    write_manifest(output, job, facts)
    sync_folder(output)
    return TrainResult(
        digest=digests.adapter,
        metrics=metrics,
        scores=scores,
        method=learning.method,
        method_reason=learning.reason,
        started_from=facts.started_from,
    )


def _open_base(job: TrainJob) -> _Base:
    """Find the base model and refuse what could not be served, before anything expensive."""
    folder = base_folder(job.base_model)
    config, architecture = load_config(folder)
    check_targets(config, architecture, job.settings.target_modules)
    check_servable(job.settings)
    tokenizer = load_tokenizer(folder)
    digests = digests_of(
        folder, tokenizer, facts_path=job.base_facts_path, incumbent_path=job.incumbent_path
    )
    threads = set_threads(job.settings.threads)
    device = choose_device(job.settings.device)
    return _Base(folder, config, architecture, tokenizer, digests, device, threads)


def _start(
    job: TrainJob, base: _Base, chosen: dict[str, str]
) -> tuple[TrainJob, Path | None, dict[str, str]]:
    """What of the settings this machine and the adapter in service allow; where the run starts, None at the base."""
    settings, start = job.settings, None
    if settings.load_in_4bit and base.device != "cuda":
        settings = msgspec.structs.replace(settings, load_in_4bit=False)
        chosen = chosen | {"load_in_4bit": f"false: bitsandbytes needs CUDA, not {base.device}"}
    half = half_of(base.device, settings.half)
    if half != settings.half:
        settings = msgspec.structs.replace(settings, half=half)
        chosen = chosen | {"half": f"{half}: the device has no bfloat16"}
    if settings.start_from == "adapter":
        start = Path(job.start_path) if job.start_path else None
        why = other_shape(start, settings) if start else "no adapter is in service"
        if start and why:
            why = f"{start.name} has {why}"
        if why:
            start, chosen = None, chosen | {"start_from": f"base: {why}"}
    return msgspec.structs.replace(job, settings=settings), start, chosen


def _fine_tune_that_fits(
    job: TrainJob, base: _Base, learning: Plan, start: Path | None, report: Report
) -> tuple[TrainJob, _Tuned]:
    """Train; out of memory, with smaller settings. The job as it was done, and what came out.

    A run that goes on from checkpoints finds those of the settings that fitted in `smaller-N`.
    """
    settings, tuned = that_fits(
        job.settings,
        lambda settings: material_of(learning, base.tokenizer, settings),
        lambda material, settings, tried: _fine_tune(
            msgspec.structs.replace(job, settings=settings),
            base,
            learning,
            material,
            start,
            tried,
            report,
        ),
        report,
    )
    return msgspec.structs.replace(job, settings=settings), tuned


def _fine_tune(
    job: TrainJob,
    base: _Base,
    learning: Plan,
    material: Material,
    start: Path | None,
    tried: int,
    report: Report,
) -> _Tuned:
    import torch

    from honed.worker.checkpoints import Checkpoints
    from honed.worker.fine_tune import fine_tune

    settings = job.settings
    metadata = Path(job.metadata_path) if job.metadata_path else None
    groups = read_groups(metadata, learning.num_examples)
    rows = material.rows
    split = split_rows(rows, groups, fraction=settings.validation_fraction, seed=settings.seed)
    checkpoints = None
    if job.checkpoints_path is not None:
        checkpoints = Checkpoints(Path(job.checkpoints_path) / f"smaller-{tried}")
    model = load_model(base.folder, base.device, in_4bit=settings.load_in_4bit, half=settings.half)
    num_parameters = model.num_parameters()
    model = started_from(model, start)
    metrics = fine_tune(
        model,
        base.tokenizer,
        split,
        settings,
        Path(job.output_path),
        report,
        checkpoints=checkpoints,
    )
    num_trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    del model
    gc.collect()
    if base.device == "cuda":
        torch.cuda.empty_cache()
    metrics = msgspec.structs.replace(
        metrics,
        dropped_rows=learning.num_examples - len({row.example for row in rows}),
        dropped_tokens=dict(material.dropped),
    )
    return _Tuned(material, metrics, num_parameters, num_trainable)


def _probe_kl(job: TrainJob, base: _Base, model: AdaptedModel) -> float | None:
    return probe_kl(
        model,
        base.tokenizer,
        adapter=CANDIDATE,
        path=Path(job.settings.probe_path) if job.settings.probe_path else None,
    )


def _scores(
    job: TrainJob, base: _Base, model: AdaptedModel, report: Report
) -> tuple[EpisodeScore, ...]:
    if job.held_out_path is None:
        return ()
    max_length = job.settings.max_length
    return score_episodes(
        model,
        read_held_out(Path(job.held_out_path), base.tokenizer, max_length=max_length),
        candidate=CANDIDATE,
        incumbent=INCUMBENT if job.incumbent_path is not None else None,
        pad_token_id=base.tokenizer.pad_token_id,
        report=report,
    )


def _digests(job: TrainJob, base: _Base, output: Path) -> Digests:
    return Digests(
        adapter=adapter_digest(output),
        data=job.data_digest or file_digest(Path(job.data_path)),
        base_model=base.digests.base_model,
        tokenizer=base.digests.tokenizer,
        chat_template=base.digests.chat_template,
    )
