"""The adapter's shape, as PEFT has it."""

from typing import Final

from peft import LoraConfig

from honed.domain.job import TrainSettings

ALL_LINEAR: Final = "all-linear"


def lora_config(settings: TrainSettings) -> LoraConfig:
    """Of a run's settings; without target modules all linear layers but the head."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules) if settings.target_modules else ALL_LINEAR,
    )
