"""What a llama-server takes of a GPU: how many of its layers fit, and how much a second server would need.

The bundled server is for the CPU; only an executable that the operator names may use a GPU.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from honed import log
from honed.config import ServeSection
from honed.machine.gguf_header import read_layers
from honed.machine.nvidia import Reading, cards

_SPARE: Final = 512 << 20
"""Bytes that stay free on a card: the buffers of a batch, and what the driver takes for a process."""


def fitting_layers(section: ServeSection, base_gguf: Path, *, reading: Reading = cards) -> int:
    """As many layers as the config asks for, or as fit beside what else is on the card with the most room.

    What the config says stands where no card can be read, or the file does not tell its layers.
    """
    asked = section.n_gpu_layers
    found = reading() if may_use_gpu(section) else ()
    layers = read_layers(base_gguf) if found else None
    if layers is None:
        return asked
    free = sum(card.free for card in found)  # llama.cpp spreads layers over all of them
    each = layers.layer_bytes(section.ctx_size * section.parallel)
    fitting = max(0, (free - _SPARE * len(found)) // each)
    if fitting > layers.num_layers:  # one more is the output layer
        return asked
    if fitting < asked:
        log.get(base_gguf=base_gguf.name).warning(
            log.GPU_LAYERS_CUT, asked=asked, layers=fitting, of=layers.num_layers, free=free
        )
    return min(asked, fitting)


def may_use_gpu(section: ServeSection) -> bool:
    """Whether its servers may put layers on a GPU."""
    return section.n_gpu_layers > 0 and section.llama_server is not None


def need(
    section: ServeSection, base_gguf: Path, pids: Collection[int], *, reading: Reading = cards
) -> tuple[int, int] | None:
    """Bytes that a second server like the one of these processes takes of the cards, and bytes that are free; None
    where it takes nothing, or nobody can tell.
    """
    found = reading() if may_use_gpu(section) else ()
    free = sum(card.free for card in found)
    if used := sum(card.used_by.get(pid, 0) for card in found for pid in pids):
        return used, free
    layers = read_layers(base_gguf) if found else None
    if layers is None:
        return None
    # a driver in a container does not say who holds what
    num_layers = min(section.n_gpu_layers, layers.num_layers + 1)
    each = layers.layer_bytes(section.ctx_size * section.parallel)
    return num_layers * each + _SPARE * len(found), free
