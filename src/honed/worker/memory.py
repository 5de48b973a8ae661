"""Memory of this process, as the kernel counts it."""

import contextlib
import ctypes
import gc
import os
from pathlib import Path


def rss_mb() -> float:
    """Resident memory now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_rss_mb() -> float:
    """The most that was ever resident, MiB.

    Not `ru_maxrss`: that counts what the process that started this one held.
    """
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def give_back() -> None:
    """Free what nobody holds any more, and return it to the kernel.

    The C library keeps freed blocks of up to 32 MiB. Measured after a step that did not fit (a model of 0.5 MB, 8 rows
    of 900 tokens): 775 MiB resident without trimming, 514 with it.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL("libc.so.6").malloc_trim(0)
