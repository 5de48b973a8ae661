"""GPUs as NVIDIA's management library tells them, asked within this process: milliseconds, where `nvidia-smi` takes
tenths of a second.

Nothing without the package nvidia-ml-py (extra `gpu`), without a driver, or without a card. `Reading` is the port:
whoever decides by it takes one as an argument.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU at one moment; what its driver does not tell is None."""

    index: int
    name: str
    total: int
    """Bytes."""
    free: int
    """Bytes."""
    used_by: dict[int, int]
    """Bytes by process; a driver in a container may tell none, or processes by other numbers."""
    celsius: int | None = None
    watts: float | None = None


Reading = Callable[[], tuple[Card, ...]]
"""Reads all cards."""


def cards() -> tuple[Card, ...]:
    """What the library says now."""
    if find_spec("pynvml") is None:
        return ()
    import pynvml

    with _opened(pynvml) as is_open:
        if not is_open:
            return ()
        return tuple(_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))


@contextlib.contextmanager
def _opened(library: Any) -> Iterator[bool]:
    """The library in use, counted by itself; False when there is no driver."""
    try:
        library.nvmlInit()
    except library.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(library.NVMLError):
            library.nvmlShutdown()


def _card(library: Any, index: int) -> Card:
    handle = library.nvmlDeviceGetHandleByIndex(index)
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    celsius, milliwatts, processes = None, None, []
    with contextlib.suppress(library.NVMLError):
        celsius = library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
    with contextlib.suppress(library.NVMLError):
        milliwatts = library.nvmlDeviceGetPowerUsage(handle)
    with contextlib.suppress(library.NVMLError):
        processes = library.nvmlDeviceGetComputeRunningProcesses(handle)
    return Card(
        index=index,
        name=_text(library.nvmlDeviceGetName(handle)),
        total=int(memory.total),
        free=int(memory.free),
        used_by={each.pid: int(each.usedGpuMemory or 0) for each in processes},
        celsius=celsius,
        watts=milliwatts / 1000 if milliwatts is not None else None,
    )


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
