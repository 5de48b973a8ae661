"""Which base models can be served: one row per architecture whose tensors this package writes to GGUF.

A row is a promise: base and LoRA give the same log-probabilities in llama-server as in transformers
(tests/unit/worker/test_families.py holds each row to it). What a config asks for and llama.cpp
computes otherwise, in silence, is refused (`honed.worker.limits`). Add a row with its test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gguf
import numpy as np

from honed.errors import UnsupportedError
from honed.worker.limits import (
    Limit,
    activation,
    alternating_layers,
    context_length,
    derived_head_dim,
    every_fourth_layer_without_rope,
    head_dim,
    no_conv_bias,
    scaled_by_head_dim,
)
from honed.worker.rope import write_rope

Array = np.ndarray[Any, Any]
Metadata = Callable[[gguf.GGUFWriter, Any], None]

HAND_CONVERSION: Final = (
    "convert the model with llama.cpp's convert_hf_to_gguf.py "
    "and name the file as serve.base_model_path (docs/models.md)"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture is called, described and stored in GGUF."""

    name: str
    """Class name in `config.json`."""
    model: gguf.MODEL_ARCH
    metadata: tuple[Metadata, ...] = ()
    """Write what the config says beyond the keys that all have."""
    limits: tuple[Limit, ...] = (activation("silu"),)
    """Refuse a config that llama.cpp would compute otherwise."""
    rope_types: frozenset[str] = frozenset({"default"})
    """Kinds of rotary embedding that were proved against the server."""
    permuted: bool = False
    """Whether llama.cpp rotates neighbouring rows of q_proj and k_proj, transformers halves."""
    norm_offset: float = 0.0
    """What transformers adds to each norm's weight when it runs, and llama.cpp finds in the file."""
    windowed: bool = False
    """Whether llama.cpp applies the sliding window. Elsewhere the context ends with the window."""

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

    def transform(self, name: str, values: Array, config: Any) -> Array:
        """A tensor's values as llama.cpp wants them. Also right for B of a LoRA on that tensor."""
        if self.norm_offset and name.endswith("norm.weight"):
            return values + np.float32(self.norm_offset)
        if self.permuted and ".q_proj." in name:
            return _neighbours(values, config.num_attention_heads)
        if self.permuted and ".k_proj." in name:
            return _neighbours(values, config.num_key_value_heads)
        if name.endswith(".conv.conv.weight"):
            return values.squeeze(1)  # one channel per group: (channels, 1, kernel)
        return values

    def check(self, config: Any) -> None:
        """Refuse a config that the base model's GGUF could not express.

        Raises:
            UnsupportedError: it names what llama.cpp lacks.
        """
        for limit in self.limits:
            if (problem := limit(config)) is not None:
                raise UnsupportedError(
                    f"the base model ({self.name}) has {problem}, which llama.cpp does not compute",
                    advice="choose another base model",
                )

    def write_metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        """Write the hyperparameters of a transformers config.

        Raises:
            UnsupportedError: see `check`; or the rotary embedding is of a kind not in `rope_types`.
        """
        self.check(config)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(context_length(config, windowed=self.windowed))
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(_feed_forward_length(config))
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(_key_value_heads(config))
        writer.add_key_length(head_dim(config))
        writer.add_value_length(head_dim(config))
        writer.add_layer_norm_rms_eps(
            config.norm_eps if hasattr(config, "norm_eps") else config.rms_norm_eps
        )
        write_rope(writer, config, self.rope_types)
        for write in self.metadata:
            write(writer, config)


def _neighbours(rows: Array, heads: int) -> Array:
    """Rows (heads x [first half, second half]) with each row of the first half beside its partner."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def _key_value_heads(config: Any) -> int | list[int]:
    """Per layer where some layers have no attention."""
    heads: int = config.num_key_value_heads
    kinds = getattr(config, "layer_types", None) or ()
    return [0 if kind == "conv" else heads for kind in kinds] if "conv" in kinds else heads


def _feed_forward_length(config: Any) -> int:
    """The width of the feed-forward layers; LFM2's config says what it is rounded from."""
    length: int = config.intermediate_size
    if getattr(config, "block_auto_adjust_ff_dim", False):  # as transformers' Lfm2MLP does
        length = int(config.block_ffn_dim_multiplier * int(2 * length / 3))
        length = -(-length // config.block_multiple_of) * config.block_multiple_of
    return length


def _vocabulary_and_rotation(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim(config))


def _short_convolution(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_shortconv_l_cache(config.conv_L_cache)


def _granite_scales(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _softcaps(writer: gguf.GGUFWriter, config: Any) -> None:
    if config.attn_logit_softcapping:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _sliding_window(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)


def _partial_rotation(writer: gguf.GGUFWriter, config: Any) -> None:
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head_dim(config) * share))


def _no_sliding_window(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_sliding_window(0)  # llama.cpp takes Phi-3 files without the key for old ones


_GELU = activation("gelu_pytorch_tanh", key="hidden_activation")

ARCHITECTURES: Final = (
    Architecture(
        "LlamaForCausalLM",
        gguf.MODEL_ARCH.LLAMA,
        metadata=(_vocabulary_and_rotation,),
        rope_types=frozenset({"default", "linear", "llama3", "yarn"}),
        permuted=True,
    ),
    Architecture(
        "MistralForCausalLM",
        gguf.MODEL_ARCH.LLAMA,
        metadata=(_vocabulary_and_rotation,),
        permuted=True,
    ),
    Architecture(
        "Qwen2ForCausalLM",
        gguf.MODEL_ARCH.QWEN2,
        rope_types=frozenset({"default", "yarn"}),
    ),
    Architecture(
        "Qwen3ForCausalLM",
        gguf.MODEL_ARCH.QWEN3,
        rope_types=frozenset({"default", "yarn"}),
    ),
    Architecture(
        "Lfm2ForCausalLM",
        gguf.MODEL_ARCH.LFM2,
        metadata=(_short_convolution,),
        limits=(derived_head_dim, no_conv_bias),
    ),
    Architecture(
        "Gemma2ForCausalLM",
        gguf.MODEL_ARCH.GEMMA2,
        metadata=(_softcaps, _sliding_window),
        limits=(_GELU, scaled_by_head_dim(unless_layers=46), alternating_layers(2)),
        norm_offset=1.0,
        windowed=True,
    ),
    Architecture(
        "Gemma3ForCausalLM",
        gguf.MODEL_ARCH.GEMMA3,
        metadata=(_softcaps, _sliding_window),
        limits=(_GELU, scaled_by_head_dim(unless_layers=62), alternating_layers(6)),
        rope_types=frozenset({"default", "linear"}),
        norm_offset=1.0,
        windowed=True,
    ),
    Architecture(
        "GraniteForCausalLM",
        gguf.MODEL_ARCH.GRANITE,
        metadata=(_vocabulary_and_rotation, _granite_scales),
        limits=(activation("silu"), derived_head_dim),
        permuted=True,
    ),
    Architecture("Olmo2ForCausalLM", gguf.MODEL_ARCH.OLMO2),
    Architecture(
        "SmolLM3ForCausalLM",
        gguf.MODEL_ARCH.SMOLLM3,
        metadata=(_vocabulary_and_rotation,),
        limits=(activation("silu"), every_fourth_layer_without_rope),
        rope_types=frozenset({"default", "yarn"}),
        permuted=True,
    ),
    Architecture("Glm4ForCausalLM", gguf.MODEL_ARCH.GLM4, metadata=(_partial_rotation,)),
    Architecture(
        "Phi3ForCausalLM",
        gguf.MODEL_ARCH.PHI3,
        metadata=(_partial_rotation, _no_sliding_window),
        limits=(activation("silu"), derived_head_dim),
        rope_types=frozenset({"default", "longrope"}),
    ),
)


def architecture_of(config: Any) -> Architecture:
    """The architecture of a transformers config.

    Raises:
        UnsupportedError: it is not in the table.
    """
    names = config.architectures or [type(config).__name__]
    for architecture in ARCHITECTURES:
        if architecture.name in names:
            return architecture
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise UnsupportedError(
        f"the base model's architecture {names[0]} is not supported: expected one of {known}",
        advice="choose a base model of a supported architecture (docs/models.md); llama.cpp's "
        "convert_hf_to_gguf.py and convert_lora_to_gguf.py convert others by hand",
    )
