"""The plan of a stand-alone run from its config file: where it reads, where it writes, with which settings."""

import json
import tomllib
from pathlib import Path
from typing import Any

from honed.checks.run_plan import RunPlan
from honed.errors import ConfigError


def plan_of(path: Path | None) -> RunPlan:
    """The plan that a config file describes; without one the defaults.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is None:
        return RunPlan()
    sections = _read(path)
    model, lora, training, dataset, save = (
        _section(sections, name, path) for name in ("model", "lora", "training", "dataset", "save")
    )
    default = RunPlan()
    return RunPlan(
        base_model=model.get("name"),
        train_path=Path(dataset.get("path", default.train_path)),
        validation_path=_path(dataset.get("validation_path")),
        text_field=dataset.get("text_field", default.text_field),
        adapter_path=Path(save.get("lora_path", default.adapter_path)),
        batch_size=training.get("per_device_train_batch_size", default.batch_size),
        accumulation=training.get("gradient_accumulation_steps", default.accumulation),
        r=lora.get("r", default.r),
        max_length=model.get("max_seq_length", default.max_length),
        load_in_4bit=model.get("load_in_4bit", default.load_in_4bit),
        config_path=path,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no table of sections")
    return found


def _section(sections: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = sections.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: {name} is no section")
    return section


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
