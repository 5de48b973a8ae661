"""The worker's advice in the words of a run's config file: it names the settings of a daemon's `[train]`."""

import re
from typing import Final

from honed.config.run_file import LoraSection, TrainingSection

_SECTIONS: Final = {
    **dict.fromkeys(TrainingSection.model_fields, "training"),
    **dict.fromkeys(LoraSection.model_fields, "lora"),
    "load_in_4bit": "model",
}
_SETTING: Final = re.compile(r"\btrain\.([a-z0-9_]+)")


def in_keys_of_a_run(advice: str) -> str:
    """`train.max_length` becomes `model.max_seq_length`; what a config file has no key for stays as it is."""

    def named(found: re.Match[str]) -> str:
        name = found[1]
        if name == "max_length":
            return "model.max_seq_length"
        return f"{_SECTIONS[name]}.{name}" if name in _SECTIONS else found[0]

    return _SETTING.sub(named, advice)
