"""Keeps what a daemon never uses out of its memory.

structlog and httpx import rich, with pygments, where it is installed (for tracebacks in colour, and for httpx's own
command line). `honed run` and `honed serve` live for months and use neither.
Measured: VmRSS after `import honed.daemon` 70 MiB with rich, 66 MiB without (x86-64, Python 3.11).
"""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_rich() -> Iterator[None]:
    """Imports inside find no rich, unless it is loaded already; afterwards it can be imported as ever."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` raise ImportError
    try:
        yield
    finally:
        del sys.modules["rich"]
