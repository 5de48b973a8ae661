"""Memory of this machine, and of the container that this process may live in."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    available: int
    """What programs may still take without pushing others out."""


def memory(root: Path = Path("/")) -> Memory:
    """What the kernel says, or less where a control group allows less.

    Args:
        root: where `proc` and `sys` are, for tests.
    """
    fields = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    found = Memory(fields["MemTotal"], fields["MemAvailable"])
    for folder in _groups(root):
        with contextlib.suppress(OSError, ValueError):
            limit = int((folder / "memory.max").read_text())  # "max" is no number: no limit
            used = int((folder / "memory.current").read_text()) - _reclaimable(folder)
            found = Memory(min(found.total, limit), min(found.available, max(0, limit - used)))
    return found


def _groups(root: Path) -> list[Path]:
    """Folders of this process's control group (version 2) and of those around it."""
    top = root / _CGROUP.relative_to("/")
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = top / line[3:].lstrip("/")
                return [own, *(each for each in own.parents if each.is_relative_to(top))]
    return []


def _reclaimable(folder: Path) -> int:
    """Page cache that the kernel gives back when asked; it counts as used."""
    for line in (folder / "memory.stat").read_text().splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0
