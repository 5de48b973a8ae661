"""The plan of a stand-alone run from its config file: where it reads, where it writes, with which settings."""

from pathlib import Path

from honed.checks.run_plan import RunPlan
from honed.config.run_file import load_run_file


def plan_of(path: Path | None) -> RunPlan:
    """The plan that a config file describes; without one the defaults.

    Raises:
        ConfigError: the file cannot be read, or is wrong; all its faults at once.
    """
    if path is None:
        return RunPlan()
    found = load_run_file(path)
    validation = found.dataset.validation_path
    return RunPlan(
        base_model=found.model.name,
        train_path=Path(found.dataset.path),
        validation_path=None if validation is None else Path(validation),
        text_field=found.dataset.text_field,
        chat_template=found.dataset.chat_template,
        adapter_path=Path(found.save.lora_path),
        batch_size=found.training.per_device_train_batch_size,
        accumulation=found.training.gradient_accumulation_steps,
        r=found.lora.r,
        lora_dropout=found.lora.lora_dropout,
        max_length=found.model.max_seq_length,
        load_in_4bit=found.model.load_in_4bit,
        config_path=path,
    )
