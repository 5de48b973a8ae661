"""Keeps what a daemon never uses out of its memory.

`sqlalchemy.ext.asyncio` imports the ORM, which honed does not use: 8 MiB of a daemon's 80.

structlog and httpx import rich, and httpx pygments too, where they are installed (for tracebacks in colour, and for
httpx's own command line). `honed run` and `honed serve` live for months and use neither.
Measured: VmRSS after `import honed.daemon` 70 MiB with rich, 66 MiB without (x86-64, Python 3.11).
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import Any, Final

_ASYNCIO: Final = "sqlalchemy.ext.asyncio"
_PARTS: Final = ("engine", "result", "exc", "base", "session", "scoping")
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


def with_orm_on_demand() -> None:
    """Make `sqlalchemy.ext.asyncio` load the parts of itself when a name of theirs is asked for.

    Its names stay what they are, for others in this process too. Nothing happens if it is loaded already.
    """
    shim = getattr(
        importlib.import_module("sqlalchemy.util.concurrency"), "_concurrency_shim", None
    )
    spec = importlib.util.find_spec(_ASYNCIO)
    if _ASYNCIO in sys.modules or shim is None or spec is None:
        return  # or a SQLAlchemy that begins otherwise: then the ORM comes too
    shim._initialize()  # what its __init__ does beside importing all
    package = importlib.util.module_from_spec(spec)

    def find(name: str) -> Any:
        if name in _PARTS:  # asked by `from . import name`, which imports it after this
            raise AttributeError(name)
        for part in _PARTS:
            module = importlib.import_module(f"{_ASYNCIO}.{part}")
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module {_ASYNCIO} has no attribute {name}")

    package.__getattr__ = find  # type: ignore[method-assign]
    sys.modules[_ASYNCIO] = package
