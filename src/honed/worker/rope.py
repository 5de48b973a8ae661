"""Rotary embeddings: what of transformers' `rope_parameters` llama.cpp computes alike, and how it is told.

- `default`, `linear`: theta, and one factor for all positions.
- `llama3`: a divisor for each frequency, in the tensor `rope_freqs.weight`.
- `yarn`: computed by llama.cpp from the factor and the original length; only with the paper's constants.
- `longrope` (Phi-3): transformers switches all positions of a sequence to the long factors when it grows
  beyond the original length, llama.cpp chooses by the size of its context, once. They agree up to the
  original length, so the short factors are written for both and the context ends there.
"""

import math
from collections.abc import Iterator
from typing import Any

import gguf
import numpy as np

from honed.errors import UnsupportedError

Array = np.ndarray[Any, Any]


def write_rope(writer: gguf.GGUFWriter, config: Any, supported: frozenset[str]) -> None:
    """Write theta and scaling.

    Raises:
        UnsupportedError: of a kind that is not supported for the architecture, or with settings of
            its own.
    """
    rope, sliding = _parameters(config)
    kind = _kind(rope)
    if kind not in supported:
        raise _refused(kind, f"expected {', '.join(sorted(supported))}")
    writer.add_rope_freq_base(rope["rope_theta"])
    if sliding is not None:
        if _kind(sliding) != "default":
            raise _refused(_kind(sliding), "expected none on sliding layers")
        writer.add_rope_freq_base_swa(sliding["rope_theta"])
    match kind:
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            _write_yarn(writer, rope)
        case "longrope":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            writer.add_rope_scaling_attn_factors(_longrope_attention(config, rope))


def rope_tensors(config: Any) -> Iterator[tuple[str, Array]]:
    """Tensors that carry frequency divisors, float32, by their GGUF name."""
    rope, _ = _parameters(config)
    match _kind(rope):
        case "llama3":
            yield "rope_freqs.weight", _llama3_divisors(config, rope)
        case "longrope":
            divisors = np.array(rope["short_factor"], dtype=np.float32)
            yield "rope_factors_long.weight", divisors
            yield "rope_factors_short.weight", divisors


def _parameters(config: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Of layers with full attention, and of sliding ones where these have their own."""
    rope = config.rope_parameters
    if "full_attention" in rope:
        return rope["full_attention"], rope["sliding_attention"]
    return rope, None


def _kind(rope: dict[str, Any]) -> str:
    kind: str = rope.get("rope_type", "default")
    return kind


def _write_yarn(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    usual = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
    for key in ("attention_factor", "mscale", "mscale_all_dim", *usual):
        if rope.get(key) not in (None, usual.get(key)):
            raise _refused("yarn", f"expected the usual {key}, found {rope[key]}")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _llama3_divisors(config: Any, rope: dict[str, Any]) -> Array:
    """By wavelength: short ones as they are, long ones slowed by `factor`, blended between.

    Source: transformers modeling_rope_utils.py `_compute_llama3_parameters`, inverted.
    """
    width = config.head_dim or config.hidden_size // config.num_attention_heads
    frequencies = rope["rope_theta"] ** (-np.arange(0, width, 2, dtype=np.float32) / width)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / (kept + (1 - kept) / rope["factor"]), dtype=np.float32)


def _longrope_attention(config: Any, rope: dict[str, Any]) -> float:
    """What cosine and sine are multiplied by (modeling_rope_utils.py `_compute_longrope_parameters`)."""
    if (given := rope.get("attention_factor")) is not None:
        return float(given)
    original = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or config.max_position_embeddings / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _refused(kind: str, expected: str) -> UnsupportedError:
    return UnsupportedError(
        f"the base model's rotary embedding is scaled by {kind!r}: {expected}",
        advice="remove the scaling from config.json (the context is then the original one), or convert "
        "the model with llama.cpp's convert_hf_to_gguf.py and name the file as serve.base_model_path",
    )
