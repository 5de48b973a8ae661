"""Supervised fine-tuning of a LoRA adapter: TRL's SFTTrainer on rows that are already tokenised and
labelled.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import datasets
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from honed.domain.job import Progress, TrainSettings
from honed.domain.trained_model import TrainingMetrics
from honed.errors import TrainingError
from honed.worker.memory import peak_rss_mb, rss_mb
from honed.worker.reporting import Report
from honed.worker.rows import Row

ALL_LINEAR: Final = "all-linear"


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
        trainer = _trainer(model, tokenizer, rows, settings, Path(scratch))
        watch = _Watch(report)
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


def lora_config(settings: TrainSettings) -> LoraConfig:
    """The adapter's shape; without target modules all linear layers but the head."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules) if settings.target_modules else ALL_LINEAR,
    )


def _trainer(
    model: Any, tokenizer: Any, rows: Sequence[Row], settings: TrainSettings, scratch: Path
) -> SFTTrainer:
    on_cpu = model.device.type == "cpu"
    config = SFTConfig(
        output_dir=str(scratch),
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_length=settings.max_length,
        seed=settings.seed,
        logging_steps=settings.logging_steps,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        # Trades a third more time for memory; worth it where memory is short, which is not the CPU.
        activation_checkpointing=not on_cpu,
        packing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # With the filter on, a NaN is logged as a loss of 0.0 and the run looks fine.
        logging_nan_inf_filter=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    dataset = datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )
    try:
        return SFTTrainer(
            model=model,
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora_config(settings),
        )
    except ValueError as error:
        raise TrainingError(
            f"the settings do not fit the base model: {error}",
            advice="check train.target_modules against the model's module names",
        ) from error


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each logged step and stops a run whose loss or gradient is no number."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tokens = 0.0
        self._at = time.monotonic()
        self.losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Tell how long the run will be."""
        self._at = time.monotonic()
        self._report(
            Progress(phase="training", step=0, total_steps=state.max_steps, rss_mb=rss_mb())
        )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Report the step; raises TrainingError when loss or gradient is not finite."""
        if logs is None or "loss" not in logs:
            return
        loss, gradient = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise TrainingError(
                f"the loss of step {state.global_step} is {loss} and its gradient norm {gradient}: "
                "expected finite numbers",
                advice="lower train.learning_rate to 1e-4 or 5e-5; check the base model",
            )
        self.losses.append(loss)
        tokens, now = float(logs.get("num_tokens", 0.0)), time.monotonic()
        rate = (tokens - self._tokens) / max(now - self._at, 1e-6)
        self._tokens, self._at = tokens, now
        self._report(
            Progress(
                phase="training",
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                loss=loss,
                learning_rate=float(logs["learning_rate"]) if "learning_rate" in logs else None,
                tokens_per_second=rate,
                rss_mb=rss_mb(),
            )
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
