"""How a lane gets from one adapter to the next, chosen by what fits the memory.

blue_green  a second server comes up beside the first, which answers until the flip
hold        the first server ends, requests wait in the gateway while the second one starts

in_place    the server that runs exchanges its adapter, requests wait meanwhile; where it can, and was asked for

Blue/green makes nobody wait, and needs room for two servers; hold needs it for one.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from honed.config import ServeSection
from honed.config.serving import Strategy
from honed.gateway import gpu
from honed.lifeline import descendants
from honed.machine.memory import memory

SPARE: Final = 256 << 20
"""Bytes that should stay free beside a second server: requests and other programs need some, too."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What a second server would take, and what there is."""

    kind: str
    """Of which memory, in words."""
    needed: int
    """Bytes."""
    free: int
    """Bytes."""

    @property
    def is_enough(self) -> bool:
        """Whether a second server fits, and something is left."""
        return self.needed + SPARE <= self.free

    def __str__(self) -> str:
        return f"a second server takes about {_mib(self.needed)} of {self.kind}, {_mib(self.free)} are free"


class Choice(NamedTuple):
    """The strategy of one switch."""

    strategy: Strategy
    reason: str


def choose(asked: Strategy, headrooms: Sequence[Headroom]) -> Choice:
    """What the config asks for, or by room: `auto` takes blue/green where a second server fits."""
    short = next((each for each in headrooms if not each.is_enough), None)
    if asked != "auto":
        doubt = f", although {short}" if short and asked == "blue_green" else ""
        return Choice(asked, f"serve.strategy says so{doubt}")
    if short is not None:
        return Choice("hold", str(short))
    return Choice("blue_green", "; ".join(map(str, headrooms)) or "nothing serves yet")


def measure(section: ServeSection, base_gguf: Path, pid: int) -> list[Headroom]:
    """Room for a server like the one that runs as `pid`: in memory, where the weights are mapped and shared and do
    not count, and on the GPU if it uses one.
    """
    headrooms = [Headroom("memory", private_bytes_of_all(pid), memory().available)]
    on_gpu = gpu.need(section, base_gguf, (pid, *descendants(pid)))
    return [*headrooms, Headroom("GPU memory", *on_gpu)] if on_gpu else headrooms


def private_bytes_of_all(pid: int) -> int:
    """As `private_bytes`, of a process and of those that it has started."""
    return sum(map(private_bytes, (pid, *descendants(pid))))


def private_bytes(pid: int) -> int:
    """Memory that a process shares with none: the KV cache and buffers, not the mapped weights; 0 when it is gone."""
    found = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                found += int(line.split()[1]) * 1024
    return found


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
