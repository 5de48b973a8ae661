"""A random tiny model of each family that can be served, with random LoRA on all its linear layers."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.tiny_models import conversations, offline

SHAPE: Final = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class Family(NamedTuple):
    """A tiny model's config, by the prefix of transformers' classes."""

    prefix: str
    settings: Mapping[str, Any] = MappingProxyType({})
    """Beyond SHAPE."""
    config: str = ""
    """Name of the config class, where it is not `{prefix}Config`."""
    tolerance: float = 1e-4
    """Nats, over the whole vocabulary, in float32 without flash attention."""


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    """Settings of a scaled rotary embedding."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


FAMILIES: Final = {
    "llama": Family("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, tied": Family("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama, rope llama3": Family(
        "Llama",
        rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama, rope linear": Family("Llama", rope("linear", factor=4.0)),
    "llama, rope yarn": Family(
        "Llama", rope("yarn", factor=4.0, original_max_position_embeddings=32)
    ),
    "mistral": Family("Mistral", {"head_dim": 32, "sliding_window": None}),
    "qwen2": Family("Qwen2"),
    "qwen2, rope yarn": Family(
        "Qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=32)
    ),
    "qwen3": Family("Qwen3", {"head_dim": 32}),
    "qwen3, rope yarn": Family(
        "Qwen3", {"head_dim": 32} | rope("yarn", factor=4.0, original_max_position_embeddings=32)
    ),
    "lfm2": Family(
        "Lfm2",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "block_multiple_of": 32,
            "conv_L_cache": 3,
        },
    ),
    "gemma2": Family(
        "Gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        tolerance=5e-3,
    ),
    "gemma3": Family(
        "Gemma3",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 7},
        config="Gemma3TextConfig",
        tolerance=5e-3,
    ),
    "gemma3, rope linear": Family(
        "Gemma3",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        config="Gemma3TextConfig",
        tolerance=5e-3,
    ),
    "granite": Family(
        "Granite",
        {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 0.5,
        },
    ),
    "olmo2": Family("Olmo2"),
    "smollm3": Family("SmolLM3", {"num_hidden_layers": 5}),
    "smollm3, rope yarn": Family(
        "SmolLM3",
        {"num_hidden_layers": 5} | rope("yarn", factor=4.0, original_max_position_embeddings=32),
    ),
    "glm4": Family("Glm4", {"head_dim": 32}),
    "phi3": Family("Phi3"),
    "phi3, rope longrope": Family(
        "Phi3",
        {"original_max_position_embeddings": 128}
        | rope(
            "longrope",
            partial_rotary_factor=0.5,
            short_factor=[1.0 + 0.2 * i for i in range(4)],
            long_factor=[2.0 + i for i in range(4)],
            original_max_position_embeddings=128,
        ),
    ),
}


@cache
def tokenizer() -> Any:
    """A byte-level tokenizer for all of them; each form of tokenizer has tests of its own."""
    from honed.worker.pretrain import make_tokenizer
    from honed.worker.rows import Example

    return make_tokenizer([Example(row["messages"]) for row in conversations()], vocab_size=320)


def make_model(family: Family, folder: Path, **save: Any) -> Path:
    """The model and its tokenizer in Hugging Face's format; every weight, bias and norm is random."""
    offline()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config_class = getattr(transformers, family.config or f"{family.prefix}Config")
    config = config_class(**SHAPE | {"vocab_size": len(tokenizer())} | dict(family.settings))
    model = getattr(transformers, f"{family.prefix}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight.shape[-1] ** -0.5)
            else:
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder, **save)
    tokenizer().save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, **lora: Any) -> Path:
    """Random LoRA on the model in `base`, as PEFT files with adapter.gguf."""
    import torch
    from peft import LoraConfig, get_peft_model

    from honed.worker.base_model import load_config, load_model
    from honed.worker.export import export_adapter

    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | lora
    model = get_peft_model(load_model(base, "cpu"), LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    export_adapter(folder, *load_config(base))
    return folder


def log_probabilities(base: Path, adapter: Path | None, prompt_ids: list[int]) -> list[float]:
    """What transformers, or PEFT, says of the token after the prompt."""
    import torch

    from honed.worker.adapted import AdaptedModel

    model = AdaptedModel(base, "cpu", {} if adapter is None else {"a": adapter})
    with model.using(None if adapter is None else "a") as adapted:
        logits = adapted(input_ids=torch.tensor([prompt_ids])).logits[0, -1]
        values: list[float] = torch.log_softmax(logits.double(), dim=-1).tolist()
    return values
