"""What the feed costs: acknowledged events beside SQLite's own insert rate, naive servers, a plain file and Redis.

    python benchmarks/ingest.py                 # a short look: 8 connections, 2 rounds
    python benchmarks/ingest.py --full          # all servers at 1, 8 and 64 connections, and at 5 million events

Every figure of a round stands beside the raw ceiling of the same round: plain `sqlite3`, `executemany` in batches of
500, rows ready-made, the columns and the unique index of the records table, `synchronous=FULL`. Disks change their
mind from minute to minute; the ratio is what counts. All write into the same folder; on tmpfs no sync is paid, which
is the harder test. honed is `honed run` as it is installed, once with redaction (the default) and once without; 0.5 %
of the events hold a secret and 3.8 % a `\\u` escape. One client process feeds all and shares the machine.
"""

import argparse
import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.feeds.clients import feed, feed_one_by_one, wire_of
from benchmarks.feeds.events import make_lines, with_secrets
from benchmarks.feeds.peers import (
    NAMES,
    commit_seconds,
    file_rate,
    is_here,
    raw_rate,
    row,
    serving,
)
from benchmarks.feeds.stages import measure

SLOW = {"commit per event": 10, "a file, fsync each": 10}
"""Peers that sync for each event get this many times fewer."""
SEQUENTIAL = 1_000
STEP = 250_000


class Measured(NamedTuple):
    """One server in one round."""

    rate: float
    ratio: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    disk_bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="everything; half an hour")
    parser.add_argument("--rounds", type=int, help="default 2, with --full 4")
    parser.add_argument("--events", type=int, help="per round; default 40000, with --full 80000")
    parser.add_argument("--only", help="one server by its name")
    parser.add_argument("--folder", type=Path, help="default: the folder for temporary files")
    parser.add_argument("--grow", type=int, metavar="N", help="only: the rate up to N events")
    arguments = parser.parse_args()
    if arguments.grow:
        grow(arguments.folder, arguments.grow)
        return
    count = arguments.events or (80_000 if arguments.full else 40_000)
    rounds = arguments.rounds or (4 if arguments.full else 2)
    names = [name for name in NAMES if is_here(name) and arguments.only in (None, name)]
    lines = with_secrets(make_lines(count))
    print(f"{len(lines)} events of {statistics.mean(map(len, lines)):.0f} bytes, {rounds} rounds")
    for connections in (1, 8, 64) if arguments.full else (8,):
        compare(names, lines, connections=connections, rounds=rounds, place=arguments.folder)
    one_by_one(names, lines[:SEQUENTIAL], rounds=2 * rounds, place=arguments.folder)
    costs(lines[:20_000], place=arguments.folder)
    if arguments.full:
        grow(arguments.folder, 5_000_000)


def compare(
    names: Sequence[str],
    lines: Sequence[bytes],
    *,
    connections: int,
    rounds: int,
    place: Path | None,
) -> None:
    """Print a table: rate, ratio to the ceiling, ack, processor and disk."""
    found: dict[str, list[Measured]] = {name: [] for name in names}
    raw: list[float] = []
    rows = [row(line) for line in lines]
    for _ in range(rounds):
        for name in names:
            with _folder(place) as folder:
                raw.append(raw_rate(folder / "raw.db", rows))
                few = lines[: len(lines) // SLOW.get(name, 1)]
                found[name].append(_one(name, folder, few, connections, raw[-1]))
    print(f"\n{connections} connection{'s' * (connections > 1)}")
    print(
        f"{'':22} {'acked/s':>8}  {'of raw':>18}  {'p50 ms':>7} {'p99 ms':>7} {'CPU us':>7} {'bytes':>6}"
    )
    print(f"{'raw sqlite3':22} {statistics.median(raw):8.0f}  {'1':>4}")
    for name, each in found.items():
        ratios = [one.ratio for one in each]
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"
        rate, _, p50, p99, cpu, disk = (
            statistics.median(column) for column in zip(*each, strict=True)
        )
        print(f"{name:22} {rate:8.0f}  {spread:>18}  {p50:7.1f} {p99:7.1f} {cpu:7.1f} {disk:6.0f}")
    with _folder(place) as folder:
        rate = file_rate(folder / "plain", lines[: len(lines) // SLOW["a file, fsync each"]])
    print(f"{'a file, fsync each':22} {rate:8.0f}")


def one_by_one(
    names: Sequence[str], lines: Sequence[bytes], *, rounds: int, place: Path | None
) -> None:
    """Print how long one sequential client waits for an ack, beside a bare commit in the same round."""
    print("\none client, one event at a time: ms, and times the bare commit in the median round")
    rows = [row(line) for line in lines]
    for name in names:
        p50s, p99s, times50, times99 = [], [], [], []
        for _ in range(rounds):
            with _folder(place) as folder:
                bare = commit_seconds(folder / "bare.db", rows)
                with serving(name, folder / "server") as server:
                    waits = asyncio.run(feed_one_by_one(server.socket, lines, wire=wire_of(name)))
            p50s.append(_quantile(waits, 50) * 1e3)
            p99s.append(_quantile(waits, 99) * 1e3)
            times50.append(_quantile(waits, 50) / _quantile(bare, 50))
            times99.append(_quantile(waits, 99) / _quantile(bare, 99))
        print(
            f"{name:22} p50 {statistics.median(p50s):6.2f} ({statistics.median(times50):.1f} times)"
            f"   p99 {statistics.median(p99s):6.2f} ({statistics.median(times99):.1f} times)"
        )


def costs(lines: Sequence[bytes], *, place: Path | None) -> None:
    """Print what each step costs an event."""
    print("\nus of the processor per event, each step alone")
    with _folder(place) as folder:
        for stage in measure(folder, lines):
            print(f"{stage.name:48} {stage.us:6.2f}")


def grow(place: Path | None, count: int) -> None:
    """Print the rate, its ratio to the ceiling on an empty file and the memory, as the store fills."""
    print(f"\nup to {count} events, 8 connections")
    with _folder(place) as folder, serving("honed", folder / "server") as server:
        for first in range(0, count, STEP):
            lines = with_secrets(make_lines(STEP, first=first))
            probe = lines[: STEP // 4]
            raw = raw_rate(folder / "raw.db", [row(line) for line in probe])
            for leftover in folder.glob("raw.db*"):
                leftover.unlink()
            fed = asyncio.run(feed(server.socket, lines, wire=wire_of("honed"), connections=8))
            print(
                f"{first + STEP:9}  {fed.rate:8.0f}/s  {fed.rate / raw:.2f} of raw"
                f"  peak {server.peak_mib():4.0f} MiB",
                flush=True,
            )


def _one(name: str, folder: Path, lines: Sequence[bytes], connections: int, raw: float) -> Measured:
    with serving(name, folder / "server") as server:
        before = server.cpu_seconds()
        fed = asyncio.run(feed(server.socket, lines, wire=wire_of(name), connections=connections))
        cpu = server.cpu_seconds() - before
    return Measured(
        fed.rate,
        fed.rate / raw,
        _quantile(fed.waits, 50) * 1e3,
        _quantile(fed.waits, 99) * 1e3,
        cpu / len(lines) * 1e6,
        _size(folder / "server") / len(lines),
    )


def _quantile(seconds: Sequence[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1] if len(seconds) > 1 else seconds[0]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def _folder(place: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="honed-bench-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
