"""Tiny models made on the spot: a random Qwen3 with its own tokenizer, its GGUF, and adapters for
it.

The training stack is imported when a model is first made, so a test that needs none does not wait
for it.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from honed.domain.job import ExportBaseJob

SUBJECTS = ("disk", "memory", "network", "cpu", "queue", "cache", "login", "deploy")
ACTIONS = ("restart", "purge", "scale", "rotate", "flush", "drain")


def offline() -> None:
    """Keep hub and trainers from talking, as the worker does for itself."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        DO_NOT_TRACK="1",
        TOKENIZERS_PARALLELISM="false",
    )


def conversations(count: int = 64) -> list[dict[str, Any]]:
    """Short conversations in which each finding has one right answer; the same at every call."""
    rows = []
    for i in range(count):
        subject, action = SUBJECTS[i % 8], ACTIONS[i % 6]
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": "You operate services."},
                    {"role": "user", "content": f"alert {i}: service {i % 5}, what is wrong?"},
                    {"role": "assistant", "content": f"{subject}: inspect"},
                    {"role": "user", "content": f"the {subject} is at {50 + i % 50} percent"},
                    {"role": "assistant", "content": f"{subject}: {action}"},
                ]
            }
        )
    return rows


def make_tiny_base(folder: Path, *, seed: int = 0, vocab_size: int = 512) -> Path:
    """A random Qwen3 (64 wide, 2 layers, 0.1 M parameters) with a byte-level BPE tokenizer and
    ChatML.
    """
    offline()
    import torch
    from transformers import set_seed
    from transformers.utils import logging

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    set_seed(seed)
    tokenizer = make_tokenizer(
        [Example(row["messages"]) for row in conversations()], vocab_size=vocab_size
    )
    model = make_model(len(tokenizer), hidden_size=64, num_layers=2)
    save_base(model, tokenizer, folder)
    return folder


def make_tiny_gguf(base: Path, path: Path) -> Path:
    """The model in `base` as an F32 GGUF file."""
    from honed.worker.gguf_base import export_base

    export_base(ExportBaseJob(base_model=str(base), output_path=str(path), result_path=""))
    return path


def make_tiny_adapter(
    base: Path, folder: Path, *, seed: int = 1, strength: float = 0.3, **lora: Any
) -> Path:
    """An adapter with random weights in published form: PEFT files, adapter.gguf, fingerprint.json.

    Args:
        strength: standard deviation of B; 0.3 moves the log-probabilities by more than one nat.
        lora: settings of PEFT's LoraConfig instead of the usual ones.
    """
    offline()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    from honed.worker.adapted import AdaptedModel
    from honed.worker.base_model import load_config, load_model, load_tokenizer
    from honed.worker.export import export_adapter
    from honed.worker.fingerprint import fingerprint_of, write_fingerprint

    torch.set_num_threads(1)
    set_seed(seed)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | lora
    model = get_peft_model(load_model(base, "cpu"), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=strength)
    model.save_pretrained(folder)
    export_adapter(folder, *load_config(base))
    adapted = AdaptedModel(base, "cpu", {"adapter": folder})
    write_fingerprint(folder, fingerprint_of(adapted, load_tokenizer(base), adapter="adapter"))
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random base model in Hugging Face's format."""
    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_gguf(tiny_base: Path) -> Path:
    """The tiny base model as GGUF."""
    return make_tiny_gguf(tiny_base, tiny_base.parent / "base.gguf")


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path) -> tuple[Path, Path]:
    """Folders of two different adapters of the tiny base model, `tiny@1` and `tiny@2`."""
    folder = tiny_base.parent / "adapters"
    return (
        make_tiny_adapter(tiny_base, folder / "tiny@1", seed=1),
        make_tiny_adapter(tiny_base, folder / "tiny@2", seed=2),
    )
