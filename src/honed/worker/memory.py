"""Memory of this process, as the kernel counts it."""

import os
import resource
from pathlib import Path


def rss_mb() -> float:
    """Resident memory now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_rss_mb() -> float:
    """The most that was ever resident, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
