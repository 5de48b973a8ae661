"""The nine checks before a stand-alone run, each pass, warn or fail, in one report.

    train_file, row_format, samples, validation, gpu, cuda, config, model_fits, baseline

They look only. What the machine has is given in, so that the report says the same of the same machine.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from honed.checks.dataset_rows import FORMAT_STEP, Fault, read_rows
from honed.checks.files import digest_of, read_json
from honed.checks.hardware_table import GIB, Tier, needed_gib, tier_of
from honed.checks.measures import BASELINE, Baseline
from honed.checks.run_plan import RunPlan
from honed.domain.job import AskedMethod, ExamineResult, TrainSettings
from honed.errors import ValidationError
from honed.machine import model
from honed.machine.gpus import Gpu, Gpus
from honed.machine.memory import Memory
from honed.machine.plan import training_bytes

Status = Literal["pass", "warn", "fail"]

SAMPLES_MIN: Final = 100
SAMPLES_FEW: Final = 1_000
_CPU_PARAMETERS: Final = 1_000_000_000
"""With more, a run on a CPU takes hours or days."""


class PreflightCheck(Struct, frozen=True, kw_only=True):
    """One of the nine."""

    check: str
    status: Status
    """`warn`: the run works, but someone should look; `fail`: it would not, or prove nothing."""
    found: str
    advice: str | None = None
    """What to do; always there unless it passes."""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What this machine has."""

    gpus: Gpus
    memory: Memory
    examined: ExamineResult | None
    """What torch sees; None where the training stack is not installed."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What the checks look at."""

    plan: RunPlan
    machine: MachineFacts
    config_faults: tuple[str, ...]
    needs_baseline: bool
    counts: dict[str, int] = field(default_factory=dict)
    """Rows of a file that were counted already."""

    @property
    def card(self) -> Gpu | None:
        """The one with the most free memory."""
        return max(self.machine.gpus.cards, key=lambda card: card.free, default=None)

    @property
    def tier(self) -> Tier:
        return tier_of(self.card.total if self.card else 0)


_Found = tuple[Status, str, str | None]


def preflight(
    plan: RunPlan,
    machine: MachineFacts,
    *,
    config_faults: tuple[str, ...] = (),
    needs_baseline: bool = True,
) -> tuple[PreflightCheck, ...]:
    """Do all nine; none takes another along.

    Args:
        plan: what the run would read and how it would train.
        machine: what there is to train on.
        config_faults: what is wrong with the run's config, one sentence each.
        needs_baseline: False turns a missing baseline into a warning.
    """
    run = _Run(plan, machine, config_faults, needs_baseline)
    return tuple(_checked(name, look, run) for name, look in _CHECKS.items())


def _checked(name: str, look: Callable[[_Run], _Found], run: _Run) -> PreflightCheck:
    try:
        status, found, advice = look(run)
    except ValidationError as error:
        status, found, advice = "fail", str(error), error.advice or "make it readable"
    return PreflightCheck(check=name, status=status, found=found, advice=advice)


def _train_file(run: _Run) -> _Found:
    path = run.plan.train_path
    if not path.is_file():
        return "fail", f"{path} does not exist", "name the training file in dataset.path"
    return "pass", f"{path}, {path.stat().st_size:,} bytes", None


def _row_format(run: _Run) -> _Found:
    """The first faulty line of each file."""
    faults = [fault for path in _present(run) if (fault := _first_fault(run, path))]
    if not run.counts:
        return "fail", "there is no training file to read", "name it in dataset.path"
    if faults:
        return "fail", "; ".join(faults), FORMAT_STEP
    return "pass", "every line is a row", None


def _first_fault(run: _Run, path: Path) -> str | None:
    first, rows = None, 0
    for each in read_rows(path, text_field=run.plan.text_field):
        if isinstance(each, Fault):
            first = first or f"{path}, line {each.line}: {each.text}"
        else:
            rows += 1
    run.counts[str(path)] = rows
    return first


def _present(run: _Run) -> Iterator[Path]:
    for name in ("train", "validation"):
        if (path := run.plan.splits[name]).is_file():
            yield path


def _samples(run: _Run) -> _Found:
    rows = run.counts.get(str(run.plan.train_path), 0)
    if rows < SAMPLES_MIN:
        return (
            "fail",
            f"{rows} rows to train on, at least {SAMPLES_MIN} are needed",
            "collect more: so few are learned by heart",
        )
    if rows < SAMPLES_FEW:
        return "warn", f"{rows} rows, fewer than {SAMPLES_FEW:,}", "expect little, or collect more"
    return "pass", f"{rows:,} rows", None


def _validation(run: _Run) -> _Found:
    path = run.plan.splits["validation"]
    if not path.is_file():
        return (
            "warn",
            f"{path} does not exist: nothing stops the run early, and no best weights are kept",
            "hold 5 to 20 % of the rows back, or name the file in dataset.validation_path",
        )
    rows = run.counts.get(str(path), 0)
    if not rows:
        return "warn", f"{path} has no row", "fill it, or leave dataset.validation_path out"
    return "pass", f"{path}, {rows:,} rows, evaluated each epoch", None


def _gpu(run: _Run) -> _Found:
    if run.machine.gpus.fault:
        return (
            "warn",
            f"nvidia-smi fails: {run.machine.gpus.fault}",
            "restart, or reinstall the driver",
        )
    card = run.card
    if card is None:
        return "warn", "no GPU: the CPU trains", f"choose {run.tier.model}, or a machine with a GPU"
    told = f"{card.name}, {_gib(card.free)} of {_gib(card.total)} free; fits {run.tier.model} ({run.tier.settings})"
    if card.free < card.total / 2:
        return "warn", told, "end the other programs on it: nvidia-smi names them"
    return "pass", told, None


def _cuda(run: _Run) -> _Found:
    examined = run.machine.examined
    if examined is None:
        return "fail", "the training stack is not installed", "pip install 'honed[train]'"
    told = f"torch {examined.torch}, built for {examined.build}"
    if faulty := next((each for each in examined.devices if each.problem), None):
        return (
            "fail",
            f"{told}, cannot compute on {faulty.name}: {faulty.problem}",
            "install the build of torch that fits card and driver",
        )
    if run.card and not examined.devices:
        return (
            "fail",
            f"{told}, does not see {run.card.name}",
            "install a CUDA build of torch, or hide the card by CUDA_VISIBLE_DEVICES=",
        )
    if not examined.devices:
        return "warn", f"{told}: no device", "on the CPU only tiny models are worth training"
    return "pass", f"{told}, {examined.devices[0].name}", None


def _config(run: _Run) -> _Found:
    plan = run.plan
    if run.config_faults:
        return "fail", "; ".join(run.config_faults), f"correct {plan.config_path}"
    if plan.config_path is None:
        return "pass", f"none given, the defaults hold: {plan.settings}", None
    return "pass", f"{plan.config_path}: {plan.settings}", None


def _model_fits(run: _Run) -> _Found:
    named = run.plan.base_model
    if named is None:
        return "warn", "no base model is named", "name it in model.name, or by --base-model"
    shape = _shape(named)
    if run.card is None:
        return _fits_cpu(run, named, shape)
    need = needed_gib(named) if run.plan.load_in_4bit else None
    size = need * GIB if need else _estimate(run, shape)
    if size is None:
        return (
            "warn",
            f"how much memory {named} needs is not known here",
            f"this card fits {run.tier.model} ({run.tier.settings})",
        )
    return _fits_card(run, named, size, run.card)


def _fits_card(run: _Run, named: str, size: int, card: Gpu) -> _Found:
    told = f"{named} needs {_gib(size)}, {card.name} has {_gib(card.total)}, {_gib(card.free)} free"
    tier = run.tier
    if round(size / GIB) > round(card.total / GIB):
        return "fail", told, f"choose {tier.model} with {tier.settings}"
    if size > card.free and round(size / GIB) > round(card.free / GIB):
        return "warn", told, "end the other programs on it, or lower batch and length"
    is_tiers = needed_gib(named) is not None and needed_gib(named) == needed_gib(tier.model)
    if is_tiers and _is_beyond(run.plan, tier):
        return "warn", f"{told}; {run.plan.settings} may not fit", f"lower to {tier.settings}"
    return "pass", told, None


def _is_beyond(plan: RunPlan, tier: Tier) -> bool:
    return plan.batch_size > tier.batch_size[1] or plan.max_length > tier.max_length


def _fits_cpu(run: _Run, named: str, shape: model.Shape | None) -> _Found:
    if (need := needed_gib(named)) is not None:
        return "fail", f"{named} needs a GPU with {need} GB", f"choose {run.tier.model}"
    size = _estimate(run, shape)
    if shape is None or size is None:
        return "warn", f"how much memory {named} needs is not known here", "download it first"
    available = run.machine.memory.available
    told = f"{named}, {shape.num_parameters / 1e6:,.1f} M parameters, needs about {_gib(size)} of {_gib(available)}"
    if size > available:
        return "fail", told, "lower batch and length, or choose a smaller model"
    if shape.num_parameters >= _CPU_PARAMETERS:
        return "warn", told, "a run takes hours or days on a CPU: choose a smaller model"
    return "pass", told, None


def _shape(named: str) -> model.Shape | None:
    folder = model.find(named)
    if folder is None:
        return None
    try:
        return model.shape(folder, model.read_config(folder))
    except (OSError, ValueError):
        return None


def _estimate(run: _Run, shape: model.Shape | None) -> int | None:
    if shape is None:
        return None
    plan = run.plan
    settings = TrainSettings(
        method=_method(plan.train_path),
        r=plan.r,
        lora_dropout=plan.lora_dropout,
        per_device_train_batch_size=plan.batch_size,
        max_length=plan.max_length,
        load_in_4bit=plan.load_in_4bit,
    )
    return training_bytes(shape, settings, on_gpu=run.card is not None)


def _method(path: Path) -> AskedMethod:
    """What the first row is for; what is wrong with the rows another check says."""
    try:
        with path.open("rb") as lines:
            row = json.loads(next(lines, b""))
    except (OSError, ValueError):
        return "sft"
    if not isinstance(row, dict):
        return "sft"
    return "dpo" if "chosen" in row else "kto" if "label" in row else "sft"


def _baseline(run: _Run) -> _Found:
    path = run.plan.metrics_dir / BASELINE
    advice = "honed gate baseline"
    baseline = read_json(path, Baseline)
    if baseline is None:
        if run.needs_baseline:
            return "fail", f"{path} does not exist", f"{advice}, or go on with --without-baseline"
        return "warn", f"{path} does not exist: no gain can be shown", advice
    test = run.plan.splits["test"]
    if test.is_file() and baseline.test_digest != digest_of(test):
        return "warn", f"{path} was measured on another test set than {test}", advice
    return "pass", f"{baseline.score:.1f} of 100, target {baseline.target:.1f}", None


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


_CHECKS: Final[dict[str, Callable[[_Run], _Found]]] = {
    "train_file": _train_file,
    "row_format": _row_format,
    "samples": _samples,
    "validation": _validation,
    "gpu": _gpu,
    "cuda": _cuda,
    "config": _config,
    "model_fits": _model_fits,
    "baseline": _baseline,
}
"""In the order of the report."""
