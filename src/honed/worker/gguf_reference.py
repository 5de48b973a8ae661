"""What a base model's GGUF file must say, if it was made from its Hugging Face folder.

It is what `gguf_base` would write, so that a file from elsewhere is compared with the one way in
which honed knows to write it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from honed.worker import gguf_base
from honed.worker.architectures import Architecture
from honed.worker.base_model import load_config, load_tokenizer
from honed.worker.gguf_tokenizer import write_tokenizer


@dataclass(frozen=True)
class Expected:
    """Metadata and tensors of a base model, in GGUF's words."""

    folder: Path
    config: Any
    architecture: Architecture
    metadata: dict[str, Any]
    """Hyperparameters and vocabulary, by key."""
    tensors: dict[str, "ExpectedTensor"]


@dataclass(frozen=True)
class ExpectedTensor:
    """One tensor, read from the folder when it is asked for."""

    shape: tuple[int, ...]
    """As numpy has it."""
    read: Callable[[], np.ndarray[Any, Any]] = field(repr=False)
    """Gives the whole tensor, float32."""


def expected_of(folder: Path) -> Expected:
    """What is expected of the GGUF file of the model in `folder`.

    Raises:
        UnsupportedError: the model's architecture or tokenizer cannot be written to GGUF.
        TrainingError: the folder is not whole.
    """
    config, architecture = load_config(folder)
    writer = gguf.GGUFWriter(None, architecture.gguf_name)
    architecture.write_metadata(writer, config)
    write_tokenizer(writer, load_tokenizer(folder), config.vocab_size, folder)
    metadata = {key: value.value for key, value in writer.kv_data[0].items()}
    tensors = {
        each.name: ExpectedTensor(
            tuple(each.shape), partial(gguf_base._read_tensor, each, config, architecture)
        )
        for each in gguf_base._plan(folder, config, architecture, gguf.GGMLQuantizationType.F32)
    }
    return Expected(folder, config, architecture, metadata, tensors)
