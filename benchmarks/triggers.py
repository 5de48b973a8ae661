"""What judging a trigger costs, at 10 thousand and at 10 million episodes, beside a bare `SELECT 1` in the same run.

    python benchmarks/triggers.py                        # both; the large store takes minutes to fill, and 5 GB
    python benchmarks/triggers.py --episodes 10000,100000

A look of the loop is what it asks the store for, and the verdict; both go the way that they go in the daemon. The
stores stand in scratch folders, one after the other in each round, and the looks at all of them take turns. Half of
the episodes wait to be learned from, one in a hundred of the others has changed, 1,000 runs have been.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.trigger_load import RULE, fill, judge

from honed.stores import SqlStore, open_store
from honed.triggers import TrainTrigger, parse

RULES = {
    "the default rule": parse('count(100) | every("1h")'),
    "quality(window=50)": parse("quality(window=50)"),
    "every condition": RULE,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--episodes", default="10000,10000000", help="sizes of the stores")
    parser.add_argument("--looks", type=int, default=500, help="at each store, by each rule")
    parser.add_argument("--folder", type=Path, help="where the stores are made (default: /tmp)")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.episodes.split(",")]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        asyncio.run(_measure(Path(folder), sizes, arguments.looks))


async def _measure(folder: Path, sizes: list[int], looks: int) -> None:
    async with AsyncExitStack() as opened:
        stores: dict[int, SqlStore] = {}
        for size in sizes:
            path = folder / f"{size}.db"
            async with open_store(f"sqlite:///{path}"):
                pass
            began = time.perf_counter()
            fill(path, size, waiting=size // 2)
            took, gib = time.perf_counter() - began, path.stat().st_size / 2**30
            print(f"{size:,} episodes: filled in {took:.0f} s, {gib:.2f} GiB", flush=True)
            stores[size] = await opened.enter_async_context(open_store(f"sqlite:///{path}"))
        print(
            f"\nms of a look, median of {looks} (and as a multiple of SELECT 1 at the same store)"
        )
        print(f"{'':22}" + "".join(f"{size:>24,}" for size in sizes))
        bare = await _medians({size: partial(_one, store) for size, store in stores.items()}, looks)
        print(_row("SELECT 1", bare, bare))
        for name, rule in RULES.items():
            asked = {size: partial(_look, store, rule) for size, store in stores.items()}
            print(_row(name, await _medians(asked, looks), bare), flush=True)


async def _medians(asked: dict[int, Callable[[], Awaitable[None]]], looks: int) -> dict[int, float]:
    """Milliseconds of each, asked in turns."""
    took: dict[int, list[float]] = {size: [] for size in asked}
    for _ in range(looks):
        for size, ask in asked.items():
            began = time.perf_counter()
            await ask()
            took[size].append(1_000 * (time.perf_counter() - began))
    return {size: statistics.median(times) for size, times in took.items()}


async def _one(store: SqlStore) -> None:
    async with store._read() as db:
        await db.scalar(text("SELECT 1"))


async def _look(store: SqlStore, rule: TrainTrigger) -> None:
    await judge(store, rule)


def _row(name: str, medians: dict[int, float], bare: dict[int, float]) -> str:
    cells = (f"{ms:.3f} ({ms / bare[size]:.1f})" for size, ms in medians.items())
    return f"{name:22}" + "".join(f"{cell:>24}" for cell in cells)


if __name__ == "__main__":
    main()
