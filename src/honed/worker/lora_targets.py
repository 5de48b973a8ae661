"""Which modules a LoRA may sit on; asked before a training, not after it."""

from collections.abc import Iterator, Sequence
from typing import Any

from honed.errors import TrainingError
from honed.worker.architectures import Architecture

EMBEDDINGS = ("lm_head", "embed_tokens")


def check_targets(config: Any, architecture: Architecture, targets: Sequence[str] | None) -> None:
    """Refuse target modules that llama.cpp could not apply; None is all linear layers, which it can.

    Raises:
        TrainingError: a target is no module of the model, no linear layer, tied to the embeddings, or
            without a place in GGUF.
    """
    if targets is None:
        return
    modules = dict(_modules(config))
    for target in targets:
        # PEFT compares the end of a module's name with each target.
        found = [name for name in modules if name == target or name.endswith(f".{target}")]
        if not found:
            raise _refused(target, "the base model has no such module", modules)
        for name in found:
            if (problem := _problem(name, modules[name], config, architecture)) is not None:
                raise _refused(target, problem, modules)


def lora_parameters(config: Any, targets: Sequence[str] | None) -> int:
    """Parameters of an adapter of rank 1 on the targets; None is all linear layers but the head."""
    import torch

    return sum(
        module.in_features + module.out_features
        for name, module in _modules(config)
        if isinstance(module, torch.nn.Linear)
        and name.rpartition(".")[2] not in EMBEDDINGS
        and (targets is None or any(name == t or name.endswith(f".{t}") for t in targets))
    )


def linear_names(config: Any) -> set[str]:
    """Names of the model's linear layers without the head: the last part of each."""
    import torch

    last = {
        name.rpartition(".")[2] for name, m in _modules(config) if isinstance(m, torch.nn.Linear)
    }
    return last - set(EMBEDDINGS)


def is_tied_embedding(module: str, config: Any) -> bool:
    """Whether the module is one of two that share a weight: llama.cpp aborts or does not load."""
    return bool(config.tie_word_embeddings) and module.rpartition(".")[2] in EMBEDDINGS


def _modules(config: Any) -> Iterator[tuple[str, Any]]:
    """All modules of the model, by name, without memory for their weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    yield from model.named_modules()


def _problem(name: str, module: Any, config: Any, architecture: Architecture) -> str | None:
    import torch

    if is_tied_embedding(name, config):
        return "the base model ties it to its embeddings"
    if not isinstance(module, torch.nn.Linear):
        return f"it is of type {type(module).__name__}, no linear layer"
    if architecture.tensor_name(f"{name}.weight", config) is None:
        return f"it has no name in {architecture.gguf_name}'s GGUF"
    return None


def _refused(target: str, problem: str, modules: dict[str, Any]) -> TrainingError:
    import torch

    names = {
        name.rpartition(".")[2] for name, m in modules.items() if isinstance(m, torch.nn.Linear)
    }
    return TrainingError(
        f"a LoRA on {target} cannot be served by llama.cpp: {problem}",
        advice=f"take train.target_modules from {', '.join(sorted(names))}, or leave it out for all "
        "linear layers",
    )
