"""A LoRA adapter from a base model and rows: the part that all methods share around TRL's trainers."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from transformers import PrinterCallback, set_seed

from honed.domain.job import Progress, TrainSettings
from honed.domain.trained_model import TrainingMetrics
from honed.errors import TrainingError
from honed.worker.checkpoints import Checkpoints, Saving, step_of
from honed.worker.material import AnyRow
from honed.worker.memory import peak_rss_mb
from honed.worker.patience import Patience, has_ended
from honed.worker.reporting import Report
from honed.worker.split import Split
from honed.worker.stopping import StoppedError, Stopping
from honed.worker.trainers import trainer_of
from honed.worker.watch import LogsTheEnd, Watch


def fine_tune(
    model: Any,
    tokenizer: Any,
    split: Split[AnyRow],
    settings: TrainSettings,
    folder: Path,
    report: Report,
    *,
    checkpoints: Checkpoints | None = None,
) -> TrainingMetrics:
    """Train a LoRA adapter and save it with its config into `folder`, in PEFT's format.

    The same rows, settings, threads and device give the same adapter, bit for bit on CPU, whether the run went
    through or was cut off and went on from one of its `checkpoints`.

    Raises:
        TrainingError: the loss is not finite, or the settings do not fit the model.
        StoppedError: SIGTERM came, and there is a checkpoint to go on from.
    """
    set_seed(settings.seed)
    started = time.monotonic()
    with _scratch(folder, checkpoints) as scratch:
        trainer = trainer_of(model, tokenizer, split, settings, scratch)
        watch, stopping = Watch(report), Stopping()
        trainer.remove_callback(PrinterCallback)  # prints every log line
        trainer.add_callback(watch)
        trainer.add_callback(LogsTheEnd())
        patience = settings.early_stopping_patience if split.validation else 0
        if patience:
            trainer.add_callback(Patience(patience))
        newest = _newest(checkpoints, report)
        if newest is not None:
            _end_where_it_ended(trainer, newest, patience, report)
        if checkpoints is None:
            trainer.train()
        else:
            trainer.add_callback(Saving(settings.save_steps))
            trainer.add_callback(stopping)
            with stopping.on_sigterm():
                trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        if stopping.is_asked:
            raise StoppedError(trainer.state.global_step)
    _check_weights(trainer.model)
    # An adapter that was gone on from is kept beside it as the reference: only this one is published.
    trainer.model.save_pretrained(folder, safe_serialization=True, selected_adapters=["default"])
    return _metrics(trainer, split, time.monotonic() - started, watch.seconds_in_steps)


def _newest(checkpoints: Checkpoints | None, report: Report) -> Path | None:
    """The checkpoint to go on from, told; so is each that was not whole."""
    removed: list[Path] = []
    newest = checkpoints.newest(removed.append) if checkpoints else None
    for path in removed:
        note = f"{path.name} is damaged or was never finished: it was removed"
        report(Progress(phase="training", note=note))
    if newest is not None:
        report(Progress(phase="training", note=f"goes on after step {step_of(newest)}"))
    elif removed:
        report(Progress(phase="training", note="no checkpoint is left: the run begins anew"))
    return newest


def _end_where_it_ended(trainer: Any, newest: Path, patience: int, report: Report) -> None:
    """Take no step more in a run that had stopped early and was cut off behind its last step."""
    if patience and (state := has_ended(newest, patience)) is not None:
        report(
            Progress(phase="training", step=state.global_step, total_steps=state.max_steps)
        )  # as long as it was to be
        trainer.args.max_steps = state.global_step


@contextmanager
def _scratch(folder: Path, checkpoints: Checkpoints | None) -> Iterator[Path]:
    """Where the trainer writes: the run's checkpoints, else a folder that goes when it is done."""
    if checkpoints is not None:
        checkpoints.folder.mkdir(parents=True, exist_ok=True)
        yield checkpoints.folder
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".trainer") as scratch:
        yield Path(scratch)


def _metrics(
    trainer: Any, split: Split[AnyRow], seconds: float, seconds_in_steps: float
) -> TrainingMetrics:
    """Of the whole run, also of the part before it was cut off; times are this process's."""
    state = trainer.state
    losses = [line["loss"] for line in state.log_history if "loss" in line]
    evaluated = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
    extra = {"seconds_in_steps": seconds_in_steps}
    if losses:
        extra["first_loss"] = losses[0]
    for name, told in _REWARDS.items():
        if values := [line[name] for line in state.log_history if name in line]:
            extra[told] = values[-1]
    if evaluated:
        extra |= {"best_validation_loss": min(evaluated), "num_evaluations": len(evaluated)}
    return TrainingMetrics(
        final_loss=losses[-1] if losses else None,
        mean_loss=sum(losses) / len(losses) if losses else None,
        training_time_secs=seconds,
        gpu_memory_mb=_gpu_memory_mb(trainer.model),
        peak_rss_mb=peak_rss_mb(),
        num_steps=state.global_step,
        num_tokens=sum(row.num_targets for row in split.train),
        extra=extra,
    )


_REWARDS: Final = {
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
}
"""What TRL logs of methods that compare, at the last log line."""


def _check_weights(model: Any) -> None:
    """The last steps may lie after the last log line."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(weight.isfinite().all()):
            raise TrainingError(
                f"{name} holds values that are no numbers after training",
                advice="lower train.learning_rate to 1e-4 or 5e-5",
            )


def _gpu_memory_mb(model: Any) -> float | None:
    if model.device.type != "cuda":
        return None
    import torch

    peak: int = torch.cuda.max_memory_allocated()
    return peak / 2**20
