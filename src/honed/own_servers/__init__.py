"""Servers that the operator runs: how they are asked, and how adapters get into those that load them while they run."""

from honed.own_servers.dialect import Dialect
from honed.own_servers.runtime_lora import Listed, RuntimeLora
from honed.own_servers.server import (
    Answer,
    KeyRefusedError,
    NobodyThereError,
    Server,
    UnansweredError,
)
from honed.own_servers.sglang import Sglang
from honed.own_servers.vllm import Vllm


def dialect_of(kind: str) -> Dialect:
    """How a server of this kind speaks: `vllm` or `sglang`."""
    return Vllm() if kind == "vllm" else Sglang()


__all__ = [
    "Answer",
    "Dialect",
    "KeyRefusedError",
    "Listed",
    "NobodyThereError",
    "RuntimeLora",
    "Server",
    "Sglang",
    "UnansweredError",
    "Vllm",
    "dialect_of",
]
