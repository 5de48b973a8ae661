"""The plan of a stand-alone run from its config file: where it reads, where it writes, with which settings.

Only what the checks need is read, and held to its type; what else the file says is the run's to judge.
"""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from honed.checks.run_plan import RunPlan
from honed.errors import ConfigError

_DEFAULT = RunPlan()


class _Model(Struct, frozen=True):
    name: str | None = None
    max_seq_length: int = _DEFAULT.max_length
    load_in_4bit: bool = _DEFAULT.load_in_4bit


class _Lora(Struct, frozen=True):
    r: int = _DEFAULT.r


class _Training(Struct, frozen=True):
    per_device_train_batch_size: int = _DEFAULT.batch_size
    gradient_accumulation_steps: int = _DEFAULT.accumulation


class _Dataset(Struct, frozen=True):
    path: str = str(_DEFAULT.train_path)
    validation_path: str | None = None
    text_field: str = _DEFAULT.text_field


class _Save(Struct, frozen=True):
    lora_path: str = str(_DEFAULT.adapter_path)


class _RunFile(Struct, frozen=True):
    model: _Model = field(default_factory=_Model)
    lora: _Lora = field(default_factory=_Lora)
    training: _Training = field(default_factory=_Training)
    dataset: _Dataset = field(default_factory=_Dataset)
    save: _Save = field(default_factory=_Save)


def plan_of(path: Path | None) -> RunPlan:
    """The plan that a config file describes; without one the defaults.

    Raises:
        ConfigError: the file cannot be read, or a value is of another type.
    """
    if path is None:
        return _DEFAULT
    try:
        found = msgspec.convert(_read(path), _RunFile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", faults=[str(error)]) from error
    validation = found.dataset.validation_path
    return RunPlan(
        base_model=found.model.name,
        train_path=Path(found.dataset.path),
        validation_path=None if validation is None else Path(validation),
        text_field=found.dataset.text_field,
        adapter_path=Path(found.save.lora_path),
        batch_size=found.training.per_device_train_batch_size,
        accumulation=found.training.gradient_accumulation_steps,
        r=found.lora.r,
        max_length=found.model.max_seq_length,
        load_in_4bit=found.model.load_in_4bit,
        config_path=path,
    )


def _read(path: Path) -> Any:
    try:
        text = path.read_text()
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # JSON, TOML and UTF-8 alike
        raise ConfigError(f"{path} cannot be read: {error}") from error
