"""Which base models can be served: the architectures whose tensors this package writes to GGUF.

A row here is a promise: base and LoRA give the same log-probabilities in llama-server as in
transformers. Add one with its test against the real server. Known pitfalls: Llama, Mistral, Granite
and SmolLM3 need the rows of q_proj and k_proj permuted (in the LoRA: of B), Gemma adds 1.0 to its
norms, DeepSeek and Qwen3-Next reorder rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gguf

from honed.errors import TrainingError

Metadata = Callable[[gguf.GGUFWriter, Any], None]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture is called and described in GGUF."""

    name: str
    """Class name in `config.json`."""
    model: gguf.MODEL_ARCH
    write_metadata: Metadata
    """Writes the hyperparameters of a transformers config."""

    @property
    def gguf_name(self) -> str:
        """Value of `general.architecture`."""
        name: str = gguf.MODEL_ARCH_NAMES[self.model]
        return name

    def tensor_name(self, name: str, config: Any) -> str | None:
        """The GGUF name of a transformers tensor; None when llama.cpp has no place for it."""
        names = gguf.get_tensor_name_map(self.model, config.num_hidden_layers)
        found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
        return found


def _qwen3(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope_theta(config))


def _rope_theta(config: Any) -> float:
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise TrainingError(
            f"rope type {rope['rope_type']!r} of the base model is not supported",
            advice="remove rope scaling from config.json, or convert the model with llama.cpp's "
            "convert_hf_to_gguf.py and name the file as serve.base_model_path",
        )
    theta: float = rope["rope_theta"]
    return theta


ARCHITECTURES: Final = (Architecture("Qwen3ForCausalLM", gguf.MODEL_ARCH.QWEN3, _qwen3),)


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config.

    Raises:
        TrainingError: it is not in the table.
    """
    names = config.architectures or [type(config).__name__]
    for architecture in ARCHITECTURES:
        if architecture.name in names:
            return architecture
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise TrainingError(
        f"the base model's architecture {names[0]} is not supported: expected {known}",
        advice="choose a base model of a supported architecture; llama.cpp's convert_hf_to_gguf.py "
        "and convert_lora_to_gguf.py convert others by hand",
    )
