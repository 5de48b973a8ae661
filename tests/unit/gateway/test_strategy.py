"""Which way adapters are exchanged, by what fits the memory."""

import os
from pathlib import Path

import pytest

from honed.gateway.strategy import SPARE, Headroom, choose, private_bytes

GIB = 1 << 30


def test_second_server_that_fits_is_started() -> None:
    """`auto` is blue/green where nobody has to wait."""
    fits = Headroom("memory", needed=GIB, free=GIB + SPARE)
    choice = choose("auto", [fits])
    assert choice.strategy == "blue_green"
    assert choice.reason == "a second server takes about 1024 MiB of memory, 1280 MiB are free"


def test_second_server_that_does_not_fit_is_not_started() -> None:
    """`auto` holds requests as soon as one kind of memory is short, and says which."""
    fits = Headroom("memory", needed=GIB, free=8 * GIB)
    short = Headroom("GPU memory", needed=GIB, free=GIB + SPARE - 1)
    choice = choose("auto", [fits, short])
    assert choice == (
        "hold",
        "a second server takes about 1024 MiB of GPU memory, 1280 MiB are free",
    )


@pytest.mark.parametrize("asked", ["blue_green", "hold"])
def test_config_decides_where_it_says_so(asked: str) -> None:
    """Room is not asked about; blue/green without room says what may come of it."""
    short = Headroom("memory", needed=GIB, free=0)
    choice = choose(asked, [short])  # type: ignore[arg-type]
    assert choice.strategy == asked
    assert ("although a second server takes" in choice.reason) == (asked == "blue_green")


def test_mapped_files_do_not_count() -> None:
    """What a second server shares with the first takes no room."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    mapped = int(status.partition("RssFile:")[2].split()[0]) * 1024
    assert 0 < private_bytes(os.getpid()) <= resident
    assert mapped > 0
    assert private_bytes(2**22 + 1) == 0
