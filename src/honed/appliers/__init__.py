"""Ways to put a trained model into service."""

from honed.appliers.llama_server import LlamaServerApplier
from honed.appliers.none import NoApplier

__all__ = ["LlamaServerApplier", "NoApplier"]
