"""A training as a script: what it is told on its command line, and what it says on its stdout.

    python_path train_script --data FILE --output FOLDER --model MODEL --rank 16 --alpha 32 --dropout 0.05 --epochs 3
        --batch-size 4 --grad-accum 4 --lr 0.0002 --max-seq-length 2048

It fills the folder with PEFT's files and ends with 0. Each line of its stdout that is a JSON object may have `loss` (or
`final_loss`, which wins) and `gpu_memory_mb`; the last ones count. `python -m honed.worker` is such a script.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple

from msgspec import Struct

from honed.domain.trained_model import Method
from honed.errors import ConfigError


class Limit(NamedTuple):
    """What a setting may be."""

    kind: type[int] | type[float]
    is_within: Callable[[float], bool]
    expected: str


LIMITS: Final[Mapping[str, Limit]] = {
    "lora_rank": Limit(int, lambda x: 1 <= x <= 256, "a whole number in 1..256"),
    "lora_alpha": Limit(float, lambda x: x > 0, "a number above 0"),
    "lora_dropout": Limit(float, lambda x: 0 <= x <= 0.5, "a number in 0..0.5"),
    "epochs": Limit(int, lambda x: x >= 1, "a whole number of 1 or more"),
    "batch_size": Limit(int, lambda x: x >= 1, "a whole number of 1 or more"),
    "gradient_accumulation": Limit(int, lambda x: x >= 1, "a whole number of 1 or more"),
    "learning_rate": Limit(float, lambda x: 0 < x <= 1e-2, "a number above 0, up to 0.01"),
    "max_seq_length": Limit(int, lambda x: x >= 256, "a whole number of 256 or more"),
}
"""By the name of the setting."""

FLAGS: Final[Mapping[str, str]] = {
    "--model": "base_model",
    "--rank": "lora_rank",
    "--alpha": "lora_alpha",
    "--dropout": "lora_dropout",
    "--epochs": "epochs",
    "--batch-size": "batch_size",
    "--grad-accum": "gradient_accumulation",
    "--lr": "learning_rate",
    "--max-seq-length": "max_seq_length",
}
"""The setting that each flag is about; `--data` and `--output` are the run's own."""


@dataclass(frozen=True, kw_only=True)
class LoraTrainerConfig:
    """The settings of a training by a script; a wrong one is refused, all of them at once.

    Raises:
        ConfigError: a setting is out of its limits; `faults` has one sentence for each.
    """

    base_model: str = "LiquidAI/LFM2.5-1.2B-Instruct"
    """Hub id, or folder, in Hugging Face's format."""
    lora_rank: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    epochs: int = 3
    batch_size: int = 4
    """Rows at a time."""
    gradient_accumulation: int = 4
    """Batches to a step."""
    learning_rate: float = 2e-4
    max_seq_length: int = 2048
    """Tokens that a row may hold."""
    train_script: Path | None = None
    """A program that `python_path` runs; None: the one that comes with honed."""
    output_dir: Path | None = None
    """Where the adapters' folders go; None: `adapters` in the scenario's data folder."""
    data_dir: Path | None = None
    """Where the training files go; None: `training` in the scenario's data folder."""
    python_path: str = sys.executable
    """The interpreter that has what the script imports."""

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigError("; ".join(faults), faults=faults)

    def command(self, data: Path, output: Path) -> list[str]:
        """The command line of a run."""
        script = ["-m", "honed.worker"] if self.train_script is None else [str(self.train_script)]
        line = [self.python_path, *script, "--data", str(data), "--output", str(output)]
        for flag, name in FLAGS.items():
            line += [flag, str(getattr(self, name))]
        return line

    def _faults(self) -> Iterator[str]:
        for name in ("base_model", "python_path"):
            if not isinstance(value := getattr(self, name), str) or not value:
                yield f"{name} is {value!r}: expected a name"
        for name in ("train_script", "output_dir", "data_dir"):
            value = getattr(self, name)
            if isinstance(value, str) and value:
                object.__setattr__(self, name, Path(value))
            elif not isinstance(value, Path | None):
                yield f"{name} is {value!r}: expected a path"
        for name in LIMITS:
            if fault := fault_of(name, getattr(self, name)):
                yield fault


def fault_of(name: str, value: object, *, said: str | None = None) -> str | None:
    """What is wrong with the value of a setting in `LIMITS`; None when nothing is.

    Args:
        name: of the setting.
        value: of any type.
        said: what whoever gave it calls the setting.
    """
    limit = LIMITS[name]
    kinds = (int,) if limit.kind is int else (int, float)
    is_right = isinstance(value, kinds) and not isinstance(value, bool)
    if is_right and isfinite(value) and limit.is_within(value):  # type: ignore[arg-type]
        return None
    return f"{said or name} is {value!r}: expected {limit.expected}"


class Finished(Struct, frozen=True, kw_only=True, tag="trained", tag_field="type"):
    """The last line of honed's own script."""

    final_loss: float | None
    mean_loss: float | None
    training_time_secs: float | None
    gpu_memory_mb: float | None
    """None without an accelerator."""
    num_steps: int | None
    method: Method
    method_reason: str


@dataclass(slots=True)
class Said:
    """What the lines of a script's stdout have told so far."""

    final_loss: float | None = None
    loss: float | None = None
    """The last one, of whichever step."""
    mean_loss: float | None = None
    gpu_memory_mb: float | None = None
    num_steps: int | None = None
    method: str | None = None
    method_reason: str = ""

    def take(self, line: bytes) -> bool:
        """Read a line; False where it is not a JSON object."""
        try:
            told = json.loads(line)
        except ValueError:
            return False
        if not isinstance(told, dict):
            return False
        for name in ("final_loss", "loss", "mean_loss", "gpu_memory_mb"):
            if (value := _number(told.get(name))) is not None:
                setattr(self, name, value)
        steps = told.get("num_steps", told.get("step"))
        if isinstance(steps, int) and not isinstance(steps, bool):
            self.num_steps = steps
        if isinstance(method := told.get("method"), str):
            self.method = method
        if isinstance(reason := told.get("method_reason"), str):
            self.method_reason = reason
        return True


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) else None
