"""Stop tokens of a model in Ollama, by architecture, where its base says none.

The chat template is the base model's own: a model made `from` another inherits it.
"""

from collections.abc import Mapping
from typing import Final

_CHATML: Final = ("<|im_start|>", "<|im_end|>")
_STOP: Final[Mapping[str, tuple[str, ...]]] = {
    "qwen2": _CHATML,
    "qwen3": _CHATML,
    "llama": ("<|eot_id|>",),
    "mistral": ("</s>",),
    "gemma": ("<end_of_turn>",),
    "gemma2": ("<end_of_turn>",),
    "phi2": ("<|end|>",),
    "phi3": ("<|end|>",),
}
"""By the architecture's name in GGUF."""


def stop_tokens(architecture: str, template: str) -> tuple[str, ...]:
    """What ends an answer; empty where it is not known, and the model's own end token alone does.

    GGUF calls Mistral's models `llama` too; their template tells them apart.
    """
    if architecture == "llama" and "[INST]" in template:
        architecture = "mistral"
    return _STOP.get(architecture, ())
