"""Keeps what a daemon never uses out of its memory.

structlog and httpx import rich, and httpx pygments too, where they are installed (for tracebacks in colour, and for
httpx's own command line). `honed run` and `honed serve` live for months and use neither.
Measured: VmRSS after `import honed.daemon` 70 MiB with rich, 66 MiB without (x86-64, Python 3.11).
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

_COLOUR: Final = ("rich", "pygments")


@contextlib.contextmanager
def without_colour() -> Iterator[None]:
    """Imports inside find neither, unless it is loaded already; afterwards both can be imported as ever."""
    hidden = [name for name in _COLOUR if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes `import` raise ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
