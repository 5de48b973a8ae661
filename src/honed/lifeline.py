"""A child that never outlives its parent, and a parent that finds all its children.

`python -m honed.lifeline PARENT_PID COMMAND...` becomes a command that ends with that process: for programs that are
not ours, and so do not ask the kernel for it themselves.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent(number: signal.Signals, *, parent: int | None = None) -> None:
    """Have the kernel send `number` to this process when its parent ends, also by kill -9.

    Linux ties this to the thread that made the child: start children from a thread that lives as long as they should.

    Args:
        number: what to send.
        parent: the parent's pid; if it is gone already, the signal is sent now.

    Raises:
        OSError: the kernel does not offer it.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own.

    Raises:
        OSError: the kernel does not offer it.
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants(pid: int) -> list[int]:
    """The processes that `pid` has started, and those that they have, as /proc shows them now."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ends while it is looked at
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def main(arguments: list[str]) -> None:
    """Become the command; the death signal stays over exec."""
    end_with_parent(signal.SIGKILL, parent=int(arguments[0]))
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
