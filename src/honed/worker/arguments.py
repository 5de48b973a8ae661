"""What every method's trainer is told alike, in the names of transformers' TrainingArguments."""

from pathlib import Path
from typing import Any, Final

from honed.domain.job import TrainSettings
from honed.worker.checkpoints import KEPT


def arguments(
    settings: TrainSettings, scratch: Path, *, on_cpu: bool, validates: bool
) -> dict[str, Any]:
    """Keywords of SFTConfig, DPOConfig and KTOConfig; checkpoints go into `scratch`."""
    return (
        {
            "output_dir": str(scratch),
            "num_train_epochs": settings.num_train_epochs,
            "max_steps": settings.max_steps or -1,
            "per_device_train_batch_size": settings.per_device_train_batch_size,
            "per_device_eval_batch_size": settings.per_device_train_batch_size,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps,
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": settings.lr_scheduler_type,
            "warmup_steps": settings.warmup_steps,
            "weight_decay": settings.weight_decay,
            "max_length": settings.max_length,
            "seed": settings.seed,
            "logging_steps": settings.logging_steps,
            "use_cpu": on_cpu,
            "bf16": not on_cpu and settings.half != "float16",
            "fp16": not on_cpu and settings.half == "float16",
            # Trades a third more time for memory; worth it where memory is short, which is not the CPU.
            "activation_checkpointing": (
                not on_cpu
                if settings.gradient_checkpointing is None
                else settings.gradient_checkpointing
            ),
            "save_strategy": "epoch" if validates else "no",  # else when `Saving` asks
            "save_total_limit": KEPT,
            "report_to": list(settings.report_to) or "none",
            "project": "honed",
            "disable_tqdm": True,
            # With the filter on, a NaN is logged as a loss of 0.0 and the run looks fine.
            "logging_nan_inf_filter": False,
        }
        | _optimizer(settings)
        | (_EVALUATION if validates else {})
    )


def _optimizer(settings: TrainSettings) -> dict[str, str]:
    """transformers' own default is `adamw_torch`, in the form that is the fastest."""
    return {} if settings.optim == "adamw_torch" else {"optim": settings.optim}


_EVALUATION: Final = {
    "eval_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": False,
}
"""Every epoch; the weights of the best one are those that are kept."""
