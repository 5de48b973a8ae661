"""What a stand-alone run reads and writes, and what of its settings the checks need: the one seam to its config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from honed.domain.running import TemplateName

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Places and settings of a stand-alone run; the defaults are those of its config."""

    base_model: str | None = None
    """Hub id or folder."""
    train_path: Path = Path("data/splits/train.jsonl")
    validation_path: Path | None = None
    """None: `val.jsonl` beside the training file."""
    test_path: Path | None = None
    """None: `test.jsonl` beside the training file."""
    text_field: str = "text"
    """Field of preformatted rows."""
    chat_template: TemplateName | None = None
    """None: the model's own."""
    metrics_dir: Path = Path("metrics")
    adapter_path: Path = Path("models/checkpoints/lora")
    batch_size: int = 2
    accumulation: int = 4
    r: int = 8
    lora_dropout: float = 0.0
    max_length: int = 2048
    load_in_4bit: bool = True
    config_path: Path | None = None
    """The file that said so; None: nothing did, these are the defaults."""

    @property
    def splits(self) -> dict[str, Path]:
        """The file of each split."""
        beside = self.train_path.parent
        return {
            "train": self.train_path,
            "validation": self.validation_path or beside / "val.jsonl",
            "test": self.test_path or beside / "test.jsonl",
        }

    @property
    def settings(self) -> str:
        """The settings that decide how much memory a run takes, in words."""
        bits = ", 4-bit" if self.load_in_4bit else ""
        return (
            f"batch {self.batch_size}, accumulation {self.accumulation}, r {self.r}, "
            f"length {self.max_length}{bits}"
        )
