"""A RunJob from beginning to end: rows, LoRA, adapter folder with tokenizer, manifest and card, merged model, GGUF."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from honed.domain.chat_templates import TEMPLATES
from honed.domain.job import Progress
from honed.domain.running import RunJob, RunResult
from honed.domain.train_settings import TrainSettings
from honed.domain.trained_model import TrainingMetrics
from honed.errors import EmptyDataError, TrainingError, UnsupportedError
from honed.worker.architectures import Architecture
from honed.worker.base_facts import read_folder
from honed.worker.base_model import (
    base_folder,
    choose_device,
    half_of,
    load_config,
    load_model,
    load_tokenizer,
    set_threads,
)
from honed.worker.chat_templates import mismatches
from honed.worker.export import export_adapter, name_base, publish_form
from honed.worker.lora import check_servable
from honed.worker.lora_targets import linear_names
from honed.worker.material import AnyRow, Material
from honed.worker.memory import give_back
from honed.worker.reporting import Report
from honed.worker.run_manifest import run_manifest, write_card, write_run_manifest
from honed.worker.run_outputs import check_hub, published, upload, write_merged
from honed.worker.run_rows import Read, read_file
from honed.worker.smaller import that_fits
from honed.worker.split import Split
from honed.worker.trackers import check_trackers


class _Base(NamedTuple):
    """The base model of a run."""

    folder: Path
    config: Any
    architecture: Architecture | None
    """None: not one that GGUF files are written for."""
    tokenizer: Any
    device: str


class _Tuned(NamedTuple):
    """What came out of the trainer."""

    settings: TrainSettings
    """Those that fitted into memory."""
    metrics: TrainingMetrics
    split: Split[AnyRow]
    num_parameters: int
    num_trainable: int
    total_steps: int
    epochs: float


def run(job: RunJob, report: Report) -> RunResult:
    """Do a RunJob; `lora_path` then holds the whole adapter.

    Raises:
        EmptyDataError: the data cannot teach.
        TrainingError: the model or the data cannot be used, or the loss is not finite.
        UnsupportedError: a GGUF was asked for that cannot be written, or a package is missing.
    """
    started_at = datetime.now(UTC)
    base = _open_base(job, report)
    settings, notes = _allowed(job, base)
    for note in notes:
        report(Progress(phase="loading", note=note))
    train = read_file(Path(job.data_path), settings)
    lora = Path(job.lora_path)
    lora.parent.mkdir(parents=True, exist_ok=True)
    with published(lora) as folder:
        tuned = _tune_that_fits(job, base, train, folder, report)
        report(Progress(phase="exporting"))
        if job.gguf_path is not None and base.architecture is not None:
            export_adapter(folder, base.config, base.architecture)
        else:
            publish_form(folder)
        name_base(folder, job.base_model)
        base.tokenizer.save_pretrained(folder)
        result = _result(train, tuned)
        manifest = run_manifest(
            job,
            tuned.settings,
            result,
            model_family=base.config.model_type,
            digests=read_folder(base.folder, base.tokenizer, known=None).digests,
            device=base.device,
            started_at=started_at,
        )
        write_run_manifest(folder, manifest)
        write_card(folder, manifest)
    write_merged(job, base.folder, lora, base.tokenizer)
    if job.hub_model_id is not None:
        upload(lora, job.hub_model_id)
    return result


def _result(train: Read, tuned: _Tuned) -> RunResult:
    first, last = tuned.metrics.extra.get("first_loss"), tuned.metrics.final_loss
    return RunResult(
        metrics=tuned.metrics,
        method=train.method,
        num_rows=len(tuned.split.train),
        num_validation_rows=len(tuned.split.validation),
        num_parameters=tuned.num_parameters,
        num_trainable=tuned.num_trainable,
        total_steps=tuned.total_steps,
        epochs=tuned.epochs,
        is_diverged=first is not None and last is not None and last > first,
    )


def _open_base(job: RunJob, report: Report) -> _Base:
    """Find the base model, and refuse what could not be written or logged in the end."""
    check_trackers(job.settings.report_to)
    if job.hub_model_id is not None:
        check_hub(job.hub_model_id)
    folder = base_folder(job.base_model)
    config, architecture = _config(folder, job)
    template = None if job.chat_template is None else TEMPLATES[job.chat_template]
    tokenizer = load_tokenizer(folder, template=template)
    if job.chat_template is not None:
        own = _own_template(folder)
        for note in mismatches(job.chat_template, own, tokenizer):
            report(Progress(phase="loading", note=note))
    set_threads(job.settings.threads)
    return _Base(folder, config, architecture, tokenizer, choose_device(job.settings.device))


def _config(folder: Path, job: RunJob) -> tuple[Any, Architecture | None]:
    if job.gguf_path is not None:
        check_servable(job.settings)
        return load_config(folder)
    try:
        return load_config(folder)
    except UnsupportedError:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(folder), None
        except (ValueError, KeyError, OSError):
            pass
        raise  # transformers cannot use it either


def _own_template(folder: Path) -> str | None:
    from transformers import AutoTokenizer

    found: str | None = AutoTokenizer.from_pretrained(folder).chat_template
    return found


_NEEDS_CUDA: Final = "bitsandbytes needs CUDA: on {device} it is left out"


def _allowed(job: RunJob, base: _Base) -> tuple[TrainSettings, Sequence[str]]:
    """What of the settings this machine and this model allow, and what is told of the rest."""
    settings, notes = job.settings, []
    on_cuda = base.device == "cuda"
    if settings.load_in_4bit and not on_cuda:
        notes.append(f"model.load_in_4bit: {_NEEDS_CUDA.format(device=base.device)}")
        settings = replace(settings, load_in_4bit=False)
    if settings.optim == "adamw_8bit" and not on_cuda:
        notes.append("training.optim: adamw_8bit needs CUDA: adamw_torch is taken")
        settings = replace(settings, optim="adamw_torch")
    if settings.half is not None and not on_cuda:
        notes.append(f"{settings.half} needs CUDA: float32 is computed in")
        settings = replace(settings, half=None)
    half = half_of(base.device, settings.half)
    if half != settings.half:
        notes.append(f"the device has no bfloat16: {half} is computed in")
        settings = replace(settings, half=half)
    if on_cuda and (settings.load_in_4bit or settings.optim == "adamw_8bit"):
        settings, more = _without_bitsandbytes(settings)
        notes += more
    targets, note = _targets(job, base)
    return replace(settings, target_modules=targets), [*notes, *([note] if note else [])]


def _without_bitsandbytes(settings: TrainSettings) -> tuple[TrainSettings, Sequence[str]]:
    """The settings where it is not installed: what somebody has chosen is refused, a default is left out."""
    from transformers.utils import is_bitsandbytes_available

    if is_bitsandbytes_available():
        return settings, ()
    asked = {"load_in_4bit": settings.load_in_4bit, "optim": settings.optim == "adamw_8bit"}
    chosen = [name for name, is_on in asked.items() if is_on and name in (settings.fixed or ())]
    if chosen:
        raise UnsupportedError(
            f"{chosen[0]} needs bitsandbytes, which is not installed",
            advice="pip install bitsandbytes beside the training stack",
        )
    note = "bitsandbytes is not installed: weights stay in 16 bits, the optimizer is adamw_torch"
    return replace(settings, load_in_4bit=False, optim="adamw_torch"), (note,)


def _targets(job: RunJob, base: _Base) -> tuple[tuple[str, ...] | None, str | None]:
    """The target modules that the model has; all must be there that somebody has chosen."""
    wanted = job.settings.target_modules
    if wanted is None:
        return None, None
    names = linear_names(base.config)
    lacking = [name for name in wanted if name.rpartition(".")[2] not in names]
    if lacking and not job.may_lack_targets:
        raise TrainingError(
            f"the base model has no linear layer {', '.join(lacking)}, which lora.target_modules names",
            advice=f"take lora.target_modules from {', '.join(sorted(names))}",
        )
    found = tuple(name for name in wanted if name not in lacking)
    if not lacking:
        return found, None
    if not found:
        return None, "the model has none of the usual projections: all its linear layers are taken"
    return found, f"the model has no {', '.join(lacking)}: the others are taken"


def _tune_that_fits(job: RunJob, base: _Base, train: Read, folder: Path, report: Report) -> _Tuned:
    """Train; out of memory, with smaller settings, whose checkpoints lie in `smaller-N`."""
    _, tuned = that_fits(
        train.settings,
        lambda settings: train.material(base.tokenizer, settings),
        lambda material, settings, tried: _tune(
            job, base, train, material, settings, folder, tried, report
        ),
        report,
    )
    return tuned


def _tell_left_out(material: Material, num_examples: int, report: Report) -> int:
    """Say what of the data is not learned from; the number of its rows."""
    num = num_examples - len({row.example for row in material.rows})
    parts = [f"{count} tokens {reason}" for reason, count in material.dropped.most_common(3)]
    if num:
        parts.insert(0, f"{num} of {num_examples} rows")
    if parts:
        report(Progress(phase="loading", note=f"not learned from: {', '.join(parts)}"))
    return num


def _validation(
    job: RunJob, base: _Base, settings: TrainSettings, report: Report
) -> Sequence[AnyRow]:
    """Rows to evaluate on; none when the file holds none that can be."""
    if job.validation_path is None:
        return ()
    try:
        found: Material = read_file(Path(job.validation_path), settings).material(
            base.tokenizer, settings
        )
    except EmptyDataError as error:
        report(Progress(phase="loading", note=f"no validation: {error}"))
        return ()
    return found.rows


def _tune(
    job: RunJob,
    base: _Base,
    train: Read,
    material: Material,
    settings: TrainSettings,
    folder: Path,
    tried: int,
    report: Report,
) -> _Tuned:
    from honed.worker.checkpoints import Checkpoints
    from honed.worker.fine_tune import fine_tune

    num_left_out = _tell_left_out(material, train.num_examples, report)
    split = Split(material.rows, _validation(job, base, settings, report))
    place = Path(job.checkpoints_path)
    checkpoints = Checkpoints(place / f"smaller-{tried}" if tried else place)
    model = load_model(base.folder, base.device, in_4bit=settings.load_in_4bit, half=settings.half)
    num_parameters = model.num_parameters()
    watched = _Watched(report, model, settings)
    metrics = fine_tune(
        model, base.tokenizer, split, settings, folder, watched, checkpoints=checkpoints
    )
    metrics = replace(metrics, dropped_rows=num_left_out, dropped_tokens=dict(material.dropped))
    num_trainable = watched.num_trainable
    del model, watched.model
    give_back()
    return _Tuned(
        settings,
        metrics,
        split,
        num_parameters,
        num_trainable,
        watched.total_steps,
        watched.epochs,
    )


class _Watched:
    """Reports on, says once how much of the model learns, and keeps how long the run was to be."""

    def __init__(self, report: Report, model: Any, settings: TrainSettings) -> None:
        self.model = model
        self.num_trainable = 0
        self.total_steps = 0
        self.epochs = 0.0
        self._report = report
        self._settings = settings

    def __call__(self, progress: Progress) -> None:
        """Take a piece of progress."""
        if progress.total_steps is not None and not self.total_steps:
            self.total_steps = progress.total_steps
            self._say_size()
        self.epochs = progress.epoch or self.epochs
        self._report(progress)

    def _say_size(self) -> None:
        weights = list(self.model.parameters())
        self.num_trainable = sum(weight.numel() for weight in weights if weight.requires_grad)
        total = sum(weight.numel() for weight in weights)
        batch = self._settings.per_device_train_batch_size
        steps = self._settings.gradient_accumulation_steps
        self._report(
            Progress(
                phase="training",
                note=f"{self.num_trainable:,} of {total:,} parameters are trained "
                f"({self.num_trainable / total:.2%}); {batch * steps} rows to a step ({batch} x {steps})",
            )
        )
