"""A LoRA adapter from a base model and rows: the part that all methods share around TRL's trainers."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, set_seed

from honed.domain.job import TrainSettings
from honed.domain.trained_model import TrainingMetrics
from honed.errors import TrainingError
from honed.worker.memory import peak_rss_mb
from honed.worker.reporting import Report
from honed.worker.rows import Row
from honed.worker.sft import sft_trainer
from honed.worker.watch import Watch


def fine_tune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    settings: TrainSettings,
    folder: Path,
    report: Report,
) -> TrainingMetrics:
    """Train a LoRA adapter on `rows` and save it with its config into `folder`, in PEFT's format.

    The same rows, settings, threads and device give the same adapter, bit for bit on CPU.

    Raises:
        TrainingError: the loss is not finite, or the settings do not fit the model.
    """
    set_seed(settings.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".trainer") as scratch:
        trainer = sft_trainer(model, tokenizer, rows, settings, Path(scratch))
        watch = Watch(report)
        trainer.remove_callback(PrinterCallback)  # prints every log line
        trainer.add_callback(watch)
        trainer.train()
    _check_weights(trainer.model)
    trainer.model.save_pretrained(folder, safe_serialization=True)
    num_targets = sum(row.num_targets for row in rows)
    return TrainingMetrics(
        final_loss=watch.losses[-1] if watch.losses else None,
        mean_loss=sum(watch.losses) / len(watch.losses) if watch.losses else None,
        training_time_secs=time.monotonic() - started,
        gpu_memory_mb=_gpu_memory_mb(model),
        peak_rss_mb=peak_rss_mb(),
        num_steps=trainer.state.global_step,
        num_tokens=num_targets,
        extra={"first_loss": watch.losses[0]} if watch.losses else {},
    )


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
