"""The end of a process that `multiprocessing` has forked: `atexit` does not run there."""

import os
import sys
from collections.abc import Callable
from typing import Final

_LAST: Final = -100
"""After other finalizers, which may still record something."""
_known: set[tuple[int, Callable[[], None]]] = set()


def also_in_children(callback: Callable[[], None]) -> None:
    """Call `callback` when this process ends, if it is a child of `multiprocessing`; asked again, nothing changes.

    Such a child ends by `os._exit`, and calls only the finalizers that were registered in itself.
    """
    process, parallel = map(
        sys.modules.get, ("multiprocessing.process", "multiprocessing.util")
    )  # both are loaded wherever there is such a child
    if process is None or parallel is None or process.parent_process() is None:
        return
    if (mine := (os.getpid(), callback)) not in _known:
        _known.add(mine)
        parallel.Finalize(None, callback, exitpriority=_LAST)
