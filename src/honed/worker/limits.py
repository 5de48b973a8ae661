"""What a config may say and llama.cpp computes otherwise without a word; each limit names it.

A limit reads a transformers config and says in a few words what llama.cpp lacks, or None.
"""

from collections.abc import Callable
from typing import Any

Limit = Callable[[Any], str | None]


def head_dim(config: Any) -> int:
    """Width of one attention head."""
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads


def context_length(config: Any, *, windowed: bool) -> int:
    """Tokens up to which llama.cpp attends as transformers does.

    Without the window in llama.cpp, the two agree as long as everything is inside it.
    """
    length: int = config.max_position_embeddings
    rope = config.rope_parameters or {}
    if rope.get("rope_type") == "longrope":
        length = rope["original_max_position_embeddings"]  # see `honed.worker.rope`
    if windowed:
        return length
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds and "sliding_attention" not in kinds):
        return length
    return min(length, window)


def activation(name: str, key: str = "hidden_act") -> Limit:
    """The one activation that llama.cpp's graph of the architecture has."""

    def limit(config: Any) -> str | None:
        found = getattr(config, key)
        return None if found == name else f"the activation {found!r} instead of {name!r}"

    return limit


def derived_head_dim(config: Any) -> str | None:
    """Heads must share the hidden width among them."""
    expected = config.hidden_size // config.num_attention_heads
    found = head_dim(config)
    return None if found == expected else f"head_dim {found} instead of {expected}"


def no_conv_bias(config: Any) -> str | None:
    """Short convolutions have weights only."""
    return "biases in its convolutions" if config.conv_bias else None


def scaled_by_head_dim(*, unless_layers: int) -> Limit:
    """Queries are scaled by head_dim, or by hidden_size / heads in the one size with so many layers."""

    def limit(config: Any) -> str | None:
        if config.num_hidden_layers == unless_layers:
            expected = config.hidden_size // config.num_attention_heads
        else:
            expected = head_dim(config)
        found = config.query_pre_attn_scalar
        return None if found == expected else f"query_pre_attn_scalar {found} instead of {expected}"

    return limit


def alternating_layers(period: int) -> Limit:
    """All layers have a sliding window but every `period`-th."""

    def limit(config: Any) -> str | None:
        expected = [
            "sliding_attention" if (i + 1) % period else "full_attention"
            for i in range(config.num_hidden_layers)
        ]
        return None if config.layer_types == expected else f"layer_types other than 1 in {period}"

    return limit


def every_fourth_layer_without_rope(config: Any) -> str | None:
    """Layers 4, 8, 12, ... have no rotary embedding, all others have."""
    expected = [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]
    return None if config.no_rope_layers == expected else "no_rope_layers other than 1 in 4"
