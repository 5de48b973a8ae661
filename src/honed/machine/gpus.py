"""GPUs as `nvidia-smi` lists them; none where there is no such program."""

import shutil
from dataclasses import dataclass
from typing import Final

from honed.machine.program import ask

_LIMIT_S: Final = 15.0
"""A driver that wakes a sleeping card takes seconds."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card."""

    name: str
    total: int
    """Bytes."""
    used: int
    """Bytes, by all programs."""
    driver: str

    @property
    def free(self) -> int:
        """Bytes."""
        return self.total - self.used


@dataclass(frozen=True, slots=True)
class Tenant:
    """A program that holds memory of a card."""

    pid: int
    name: str
    used: int
    """Bytes; 0 where the driver does not tell, as in containers."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """All cards and who is on them."""

    cards: tuple[Gpu, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    fault: str = ""
    """Why the program gave no list, where it is there."""


def gpus() -> Gpus:
    """What `nvidia-smi` says."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Gpus()
    cards = _query(program, "gpu", "name,memory.total,memory.used,driver_version")
    if isinstance(cards, str):
        return Gpus(fault=cards)
    tenants = _query(program, "compute-apps", "pid,process_name,used_memory")
    return Gpus(
        tuple(
            Gpu(name, _bytes(total), _bytes(used), driver)
            for name, total, used, driver in (row for row in cards if len(row) == 4)
        ),
        tuple(
            Tenant(int(pid), name, _bytes(used))
            for pid, name, used in (row for row in tenants if len(row) == 3)
        )
        if not isinstance(tenants, str)
        else (),
    )


def _query(program: str, what: str, columns: str) -> list[list[str]] | str:
    """Rows of a table, or why there is none."""
    answer = ask(
        [program, f"--query-{what}={columns}", "--format=csv,noheader,nounits"], limit_s=_LIMIT_S
    )
    if answer.status != 0:
        return answer.last_words
    return [
        [cell.strip() for cell in line.split(",")]
        for line in answer.stdout.splitlines()
        if line.strip()
    ]


def _bytes(mib: str) -> int:
    return int(mib) * _MIB if mib.isdigit() else 0  # "[N/A]" on cards that share memory
