"""A folder that looks like a base model, made without the training stack."""

import json
import struct
from pathlib import Path

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 10,
}


def make_model(folder: Path) -> Path:
    """Config, chat template and one tensor of 80 values."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [10, 8], "data_offsets": [0, 320]}})
    content = struct.pack("<Q", len(header)) + header.encode() + bytes(320)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def make_program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
