"""Ways to put a trained model into service: through the gateway, or in a server that the operator runs."""

from honed.appliers.chosen import chosen_applier
from honed.appliers.endpoint import Endpoint, EndpointFile
from honed.appliers.folder import FolderApplier
from honed.appliers.llama_server import LlamaServerApplier
from honed.appliers.none import NoApplier
from honed.appliers.ollama import OllamaApplier
from honed.appliers.runtime_lora import RuntimeLoraApplier
from honed.own_servers import Server, Sglang, Vllm

__all__ = [
    "Endpoint",
    "EndpointFile",
    "FolderApplier",
    "LlamaServerApplier",
    "NoApplier",
    "OllamaApplier",
    "RuntimeLoraApplier",
    "Server",
    "Sglang",
    "Vllm",
    "chosen_applier",
]
