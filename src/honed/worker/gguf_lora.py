"""A PEFT LoRA adapter to a GGUF LoRA for llama.cpp.

llama.cpp scales by alpha / rank with the rank read per tensor, and reads alpha 0 as a scale of 1.
So the scale is folded into B and alpha written as 0.0: right for plain LoRA, rslora,
`alpha_pattern` and `rank_pattern` alike. What llama.cpp would ignore or misread is refused.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from honed.adapter_files import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS
from honed.errors import TrainingError
from honed.worker.architectures import Architecture
from honed.worker.files import whole_file
from honed.worker.lora_targets import EMBEDDINGS, is_tied_embedding

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight\Z")
_COPIES: Final = tuple(f".{name}.base_layer.weight" for name in EMBEDDINGS)
"""PEFT writes a targeted embedding's own weight beside its LoRA."""
_REFUSED: Final = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable_token_indices",
    "layer_replication": "layer_replication",
    "fan_in_fan_out": "fan_in_fan_out",
    "target_parameters": "target_parameters",
    "alora_invocation_tokens": "aLoRA",
}
"""Keys of adapter_config.json that must be empty."""


def write_adapter(folder: Path, config: Any, architecture: Architecture) -> Path:
    """Write `adapter.gguf` beside the PEFT files in `folder`; returns its path.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        config: transformers' config of the base model.

    Raises:
        TrainingError: the adapter holds something that llama.cpp cannot apply.
    """
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    _check_settings(settings)
    output = folder / ADAPTER_GGUF
    with whole_file(output) as aside:
        writer = gguf.GGUFWriter(aside, architecture.gguf_name)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
        for name, values in _tensors(folder, settings, config, architecture):
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return output


def _check_settings(settings: dict[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise _refused(f"of type {settings.get('peft_type')}")
    for key, name in _REFUSED.items():
        if settings.get(key):
            raise _refused(f"with {name}")
    if settings.get("bias", "none") != "none":
        raise _refused(f"with bias {settings['bias']!r}")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "orthogonal"):
        raise _refused(f"started by {start!r}, which changes the base model")


def _tensors(
    folder: Path, settings: dict[str, Any], config: Any, architecture: Architecture
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """GGUF names with A (r, in) and B (out, r), float32, sorted by name."""
    modules = _read(folder / ADAPTER_WEIGHTS)
    for module in sorted(modules):
        sides = modules[module]
        if set(sides) != {"A", "B"}:
            raise _refused(f"with half a LoRA on {module}")
        if is_tied_embedding(module, config):
            raise _refused(f"on {module}, which the base model ties to its embeddings")
        name = architecture.tensor_name(f"{module}.weight", config)
        if name is None:
            raise _refused(f"on {module}, which has no name in {architecture.gguf_name}'s GGUF")
        scale = np.float32(_scale(module, sides["A"].shape[0], settings))
        yield f"{name}.lora_a", sides["A"]
        yield (
            f"{name}.lora_b",
            architecture.transform(f"{module}.weight", sides["B"] * scale, config),
        )


def _read(path: Path) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Module to its A and B."""
    import torch
    from safetensors import safe_open

    modules: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - the file object is no mapping
            if key.endswith(_COPIES):
                continue
            match = _KEY.match(key)
            if match is None:
                raise _refused(f"with the tensor {key}")
            values = file.get_tensor(key).to(torch.float32).numpy()
            modules.setdefault(match["module"], {})[match["side"]] = values
    if not modules:
        raise _refused("without tensors")
    return modules


def _scale(module: str, rank: int, settings: dict[str, Any]) -> float:
    alpha: float = settings["lora_alpha"]
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(
            rf"(.*\.)?({pattern})$", module
        ):  # as PEFT matches (tuners_utils.get_pattern_key)
            alpha = value
            break
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank


def _refused(what: str) -> TrainingError:
    return TrainingError(
        f"an adapter {what} cannot be served: llama.cpp applies plain LoRA on linear layers",
        advice="train with plain LoRA settings (bias none, no modules_to_save, no DoRA)",
    )
