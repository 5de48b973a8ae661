"""A TrainJob from beginning to end: rows, LoRA, adapter folder, fingerprint, scores.

What is scored and fingerprinted is the adapter as it was written, loaded onto a fresh base: the
trainer leaves its own model patched.
"""

import gc
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from honed.adapter_files import adapter_digest, file_digest
from honed.domain.base_facts import BaseDigests
from honed.domain.job import EpisodeScore, Progress, TrainJob, TrainResult
from honed.domain.trained_model import TrainingMetrics
from honed.errors import EmptyDataError
from honed.worker.adapted import AdaptedModel
from honed.worker.architectures import Architecture
from honed.worker.base_model import (
    base_folder,
    choose_device,
    load_config,
    load_model,
    load_tokenizer,
    set_threads,
)
from honed.worker.examples import read_examples
from honed.worker.export import export_adapter
from honed.worker.files import sync_folder
from honed.worker.fingerprint import fingerprint_of, write_fingerprint
from honed.worker.home import digests_of
from honed.worker.lora_targets import check_targets
from honed.worker.manifest import Digests, Facts, write_manifest
from honed.worker.reporting import Report
from honed.worker.rows import Prepared, prepare
from honed.worker.scores import CANDIDATE, INCUMBENT, read_held_out, score_episodes
from honed.worker.shortage import is_out_of_memory
from honed.worker.smaller import smaller, told
from honed.worker.split import read_groups, split_rows


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

    metrics: TrainingMetrics
    num_parameters: int
    """Of the base model."""
    num_trainable: int


def train(job: TrainJob, report: Report) -> TrainResult:
    """Do a TrainJob; `output_path` then holds the whole adapter, synced to disk.

    Raises:
        EmptyDataError: no row holds an assistant token within `max_length`.
        TrainingError: the base model cannot be served or loaded, or the loss is not finite.
    """
    started_at = datetime.now(UTC)
    base = _open_base(job)
    output = Path(job.output_path)
    output.mkdir(parents=True, exist_ok=True)
    job, data, tuned = _fine_tune_that_fits(job, base, report)
    report(Progress(phase="exporting"))
    export_adapter(output, base.config, base.architecture)
    adapters = {CANDIDATE: output}
    if job.incumbent_path is not None:
        adapters[INCUMBENT] = Path(job.incumbent_path)
    model = AdaptedModel(base.folder, base.device, adapters)
    write_fingerprint(output, fingerprint_of(model, base.tokenizer, adapter=CANDIDATE))
    scores = _scores(job, base, model, report)
    digests = _digests(job, base, output)
    facts = Facts(
        model_family=base.architecture.gguf_name,
        num_parameters=tuned.num_parameters,
        num_trainable=tuned.num_trainable,
        num_rows=len(data.rows),
        device=base.device,
        threads=base.threads,
        metrics=tuned.metrics,
        digests=digests,
        started_at=started_at,
    )
    write_manifest(output, job, facts)
    sync_folder(output)
    return TrainResult(digest=digests.adapter, metrics=tuned.metrics, scores=scores)


def _open_base(job: TrainJob) -> _Base:
    """Find the base model and refuse what could not be served, before anything expensive."""
    folder = base_folder(job.base_model)
    config, architecture = load_config(folder)
    check_targets(config, architecture, job.settings.target_modules)
    tokenizer = load_tokenizer(folder)
    digests = digests_of(
        folder, tokenizer, facts_path=job.base_facts_path, incumbent_path=job.incumbent_path
    )
    threads = set_threads(job.settings.threads)
    device = choose_device(job.settings.device)
    return _Base(folder, config, architecture, tokenizer, digests, device, threads)


def _rows(job: TrainJob, base: _Base) -> tuple[Prepared, int]:
    """What there is to learn from, and how many conversations gave nothing."""
    examples = read_examples(Path(job.data_path))
    settings = job.settings
    data = prepare(
        examples, base.tokenizer, max_length=settings.max_length, too_long=settings.too_long
    )
    if not data.rows:
        raise _nothing_to_learn(data, len(examples), job.settings.max_length)
    return data, len(examples) - len({row.example for row in data.rows})


def _nothing_to_learn(data: Prepared, num_examples: int, max_length: int) -> EmptyDataError:
    reasons = [f"{count} tokens: {reason}" for reason, count in data.dropped.most_common(3)]
    advice = [data.advice[reason] for reason in data.dropped if reason in data.advice]
    return EmptyDataError(
        f"none of the {num_examples} conversations has an assistant token within {max_length} "
        f"tokens{' (' + '; '.join(reasons) + ')' if reasons else ''}",
        advice=advice[0]
        if advice
        else "raise train.max_length, or check what the episodes contain",
    )


def _fine_tune_that_fits(
    job: TrainJob, base: _Base, report: Report
) -> tuple[TrainJob, Prepared, _Tuned]:
    """Train; out of memory, with smaller settings. The job as it was done, its rows, and what came out.

    A run that goes on from checkpoints finds those of the settings that fitted in `smaller-N`.
    """
    for tried in itertools.count():
        data, num_without = _rows(job, base)
        longest = max(len(row.input_ids) for row in data.rows)
        try:
            return job, data, _fine_tune(job, base, data, num_without, tried, report)
        except Exception as error:
            settings = smaller(job.settings, longest=longest) if is_out_of_memory(error) else None
            if settings is None:
                raise
        gc.collect()  # outside the handler, whose traceback holds the model
        job = msgspec.structs.replace(job, settings=settings)
        report(Progress(phase="training", note=told(settings)))
    raise AssertionError("it fits or raises")


def _fine_tune(
    job: TrainJob, base: _Base, data: Prepared, num_without: int, tried: int, report: Report
) -> _Tuned:
    import torch

    from honed.worker.checkpoints import Checkpoints
    from honed.worker.fine_tune import fine_tune

    settings = job.settings
    groups = read_groups(Path(job.metadata_path) if job.metadata_path else None, data.num_examples)
    split = split_rows(data.rows, groups, fraction=settings.validation_fraction, seed=settings.seed)
    checkpoints = None
    if job.checkpoints_path is not None:
        checkpoints = Checkpoints(Path(job.checkpoints_path) / f"smaller-{tried}")
    model = load_model(base.folder, base.device)
    num_parameters = model.num_parameters()
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
    dropped = dict(data.dropped)
    metrics = msgspec.structs.replace(metrics, dropped_rows=num_without, dropped_tokens=dropped)
    return _Tuned(metrics, num_parameters, num_trainable)


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
