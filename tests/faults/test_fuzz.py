"""Broken bytes at the socket, at HTTP and at OpenTelemetry's door: no crash, no hang, no growth.

`SEED=n` chooses what is sent, `FUZZ_SECONDS=n` is the length of the long form:

    FUZZ_SECONDS=600 SEED=3 pytest tests/faults/test_fuzz.py -m long -s --timeout 900
"""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.faults.fuzz import fuzzed

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
SEED = int(os.environ.get("SEED", "0"))
GROWTH_MIB = 20.0


@pytest.mark.parametrize(
    "seconds", [6.0, pytest.param(SECONDS, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])]
)
def test_no_bytes_harm_the_daemon(
    tmp_path: Path, seconds: float, record_property: Callable[[str, object], None]
) -> None:
    """Every request is answered or ended, memory stays flat, and a good event is taken afterwards."""
    figures = fuzzed(tmp_path, seconds=seconds, seed=SEED)
    record_property("fuzz", figures)
    sizes = figures["rss_mib"]
    quarter = len(sizes) // 4
    # Warm against last; medians, as it rises and falls by some MiB with each collection of garbage.
    warm, last = median(sizes[quarter : 2 * quarter]), median(sizes[-quarter:])
    assert last - warm < GROWTH_MIB, sizes
    answers = figures["answers"]
    assert {"feed ack", "feed invalid", "http 200", "http 422"} <= answers.keys()
