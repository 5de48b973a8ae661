"""The applier that a config names."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from honed.appliers.endpoint import EndpointFile
from honed.appliers.folder import FolderApplier
from honed.appliers.llama_server import LlamaServerApplier
from honed.appliers.none import NoApplier
from honed.appliers.ollama import OllamaApplier
from honed.appliers.runtime_lora import RuntimeLoraApplier
from honed.config import Config, OwnServer, read_secret
from honed.own_servers import Server, dialect_of
from honed.ports import Applier


def chosen_applier(
    config: Config, make_base: Callable[[], Awaitable[tuple[Path, Path | None]]] | None
) -> Applier:
    """What puts adapters into service; `make_base` as LlamaServerApplier takes it.

    Raises:
        ConfigError: the key of the operator's server cannot be read.
    """
    kind, section = config.apply.kind, config.server
    match kind:
        case "none":
            return NoApplier()
        case "llama_server":
            return LlamaServerApplier(
                config.serve_socket,
                scenario=config.scenario,
                feed_socket=config.feed_socket,
                make_base=make_base,
            )
        case "vllm" | "sglang":
            dialect = dialect_of(kind)
            return RuntimeLoraApplier(
                _own_server(config, kind, dialect.what),
                dialect,
                scenario=config.scenario,
                endpoint=EndpointFile(config.endpoint_path),
                adapters_dir=config.adapters_dir,
                adapters_at=section.adapters_at,
                load_timeout=section.load_timeout,
            )
        case "ollama":
            assert section.from_model is not None, "the config has seen to it"
            return OllamaApplier(
                _own_server(config, kind, "Ollama"),
                scenario=config.scenario,
                from_model=section.from_model,
                endpoint=EndpointFile(config.endpoint_path),
                load_timeout=section.load_timeout,
            )
        case "folder":
            assert section.folder is not None, "the config has seen to it"
            return FolderApplier(
                section.folder.expanduser().absolute(),
                scenario=config.scenario,
                hook=section.hook,
                hook_timeout=section.hook_timeout,
            )


def _own_server(config: Config, kind: OwnServer, what: str) -> Server:
    section = config.server
    return Server(
        what, section.url_of(kind), key=read_secret("server-key"), timeout=section.timeout
    )
