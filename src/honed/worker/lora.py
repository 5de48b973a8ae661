"""The adapter: its shape, as PEFT has it, and the trainer that it goes into."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from peft import LoraConfig, PeftModel

from honed.adapter_files import ADAPTER_CONFIG
from honed.domain.job import TrainSettings
from honed.errors import TrainingError, UnsupportedError

ALL_LINEAR: Final = "all-linear"
_T = TypeVar("_T")


def lora_config(settings: TrainSettings) -> LoraConfig:
    """Of a run's settings; without target modules all linear layers but the head."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        bias=settings.bias,
        target_modules=list(settings.target_modules) if settings.target_modules else ALL_LINEAR,
    )


def check_servable(settings: TrainSettings) -> None:
    """Refuse what llama.cpp could not apply, before anything is trained.

    Raises:
        UnsupportedError: DoRA or trained biases are asked for.
    """
    if settings.use_dora:
        raise UnsupportedError(
            "use_dora is set, and a GGUF adapter has no place for DoRA's magnitudes: llama.cpp could not apply it",
            advice="leave train.use_dora out; a higher train.r gives a plain LoRA more room",
        )
    if settings.bias != "none":
        raise UnsupportedError(
            f"bias is {settings.bias!r}, and a GGUF adapter has no place for trained biases: llama.cpp could not apply "
            "it",
            advice='set train.bias to "none"',
        )


def started_from(model: Any, folder: Path | None) -> Any:
    """The model with an adapter that goes on learning; as it is without one.

    Raises:
        TrainingError: the adapter does not fit the model or cannot be read.
    """
    if folder is None:
        return model
    try:
        return PeftModel.from_pretrained(
            model, folder, is_trainable=True, torch_device=model.device.type
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"adapter {folder} cannot be gone on from: {error}",
            advice='set train.start_from to "base"',
        ) from error


def other_shape(folder: Path, settings: TrainSettings) -> str | None:
    """What of an adapter's shape the settings ask otherwise, so that it cannot be gone on from; None: nothing.

    Raises:
        TrainingError: its config cannot be read.
    """
    try:
        told = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}") from error
    wanted: dict[str, Any] = {
        "r": settings.r,
        "lora_alpha": settings.lora_alpha,
        "use_rslora": settings.use_rslora,
    }
    if settings.target_modules is not None:
        wanted["target_modules"] = sorted(settings.target_modules)
    return next(
        (
            f"{name} {told.get(name)}, and the settings ask for {value}"
            for name, value in wanted.items()
            if told.get(name) != value
        ),
        None,
    )


def trainer_with_adapter(
    kind: Callable[..., _T], model: Any, settings: TrainSettings, **given: Any
) -> _T:
    """A TRL trainer on a model: with the adapter that it has already, else with a new one.

    Raises:
        TrainingError: the settings do not fit the model.
    """
    has_one = isinstance(model, PeftModel)
    try:
        trainer = kind(model=model, peft_config=None if has_one else lora_config(settings), **given)
    except ValueError as error:
        raise TrainingError(
            f"the settings do not fit the base model: {error}",
            advice="check train.target_modules against the model's module names",
        ) from error
    if not has_one and settings.random_state is not None:
        _draw_again(trainer, settings.random_state)
    return trainer


def _draw_again(trainer: Any, random_state: int) -> None:
    """The first weights of a new adapter by a seed of their own: TRL draws them by that of the rows."""
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.random.fork_rng():
        torch.manual_seed(random_state)
        for module in trainer.model.modules():
            if isinstance(module, LoraLayer):
                module.reset_lora_parameters("default", init_lora_weights=True)
