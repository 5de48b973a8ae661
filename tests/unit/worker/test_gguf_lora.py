"""What llama.cpp would ignore or misread in an adapter is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest

from honed.errors import TrainingError
from honed.worker.base_model import load_config
from honed.worker.gguf_lora import write_adapter

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "DoRA"),
    ({"lora_bias": True}, "lora_bias"),
    ({"bias": "lora_only"}, "bias 'lora_only'"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"init_lora_weights": "pissa"}, "changes the base model"),
    ({"peft_type": "IA3"}, "IA3"),
]


def copied(adapter: Path, folder: Path, **settings: Any) -> Path:
    """The adapter's PEFT files with other settings."""
    shutil.copytree(adapter, folder)
    (folder / "adapter.gguf").unlink()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def write(base: Path, folder: Path) -> Path:
    return write_adapter(folder, *load_config(base))


@pytest.mark.parametrize(("settings", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_settings_beyond_plain_lora_are_refused(
    tiny_base: Path,
    tiny_adapters: tuple[Path, Path],
    tmp_path: Path,
    settings: dict[str, Any],
    named: str,
) -> None:
    """The refusal names what cannot be served, and no GGUF is left."""
    folder = copied(tiny_adapters[0], tmp_path / "a", **settings)
    with pytest.raises(TrainingError, match=named):
        write(tiny_base, folder)
    assert not (folder / "adapter.gguf").exists()


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.norm.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.rotary.lora_A.weight",
    ],
)
def test_unknown_tensor_is_refused(
    tiny_base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path, key: str
) -> None:
    """A tensor that llama.cpp has no place for is never left out in silence."""
    from safetensors.torch import load_file, save_file

    folder = copied(tiny_adapters[0], tmp_path / "a")
    weights = load_file(folder / "adapter_model.safetensors")
    sample = next(iter(weights.values()))
    weights[key] = sample.clone()
    if key.endswith("lora_A.weight"):
        weights[key.replace("lora_A", "lora_B")] = sample.T.contiguous().clone()
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(TrainingError, match="cannot be served"):
        write(tiny_base, folder)


def test_scale_is_folded_into_b(
    tiny_base: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """Alpha is written as 0.0, which llama.cpp reads as a scale of one."""
    reader = gguf.GGUFReader(write(tiny_base, copied(tiny_adapters[0], tmp_path / "a")))
    alpha = reader.get_field("adapter.lora.alpha")
    architecture = reader.get_field("general.architecture")
    assert alpha is not None
    assert alpha.contents() == 0.0
    assert architecture is not None
    assert architecture.contents() == "qwen3"
    names = {tensor.name for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= names
