"""Eight scenarios on one base in one llama-server, beside eight servers: memory, and how fast they answer.

`honed serve` in this process, real llama-servers, clients that ask all scenarios. Both are started, proved, loaded and
measured in turns, `--rounds` times; memory is the proportional set size of all llama-servers, in which weights that are
mapped by several count once. One base of about 350 MB in F16 with `--mid` (two minutes more to make and start).

    python benchmarks/shared.py [--mid] [--rounds 2] [--seconds 10]
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.swap_wait import Model, mid, tiny
from tests.neighbours import Neighbours
from tests.planted import Planted
from tests.served import CHAT, model, serving

from honed.lifeline import descendants

SCENARIOS = tuple(f"s{number}" for number in range(8))
CLIENTS = 8
HOWS = {"shared": {"max_adapters": 8, "alone": ["tiny"]}, "own": {"max_adapters": 1}}


@dataclass(frozen=True)
class Row:
    """One measurement."""

    mib: float
    processes: int
    start_s: float
    answers_per_s: float
    tokens_per_s: float


def pss_mib(pids: Iterable[int]) -> float:
    """Proportional set size."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


class Copies(Planted):
    """Eight adapters of a base, of which two were made."""

    def __init__(self, folder: Path, made: Model) -> None:
        self._made, self._folder, self.gguf = made, folder, made.gguf

    def adapters(self, count: int) -> list[Path]:
        """The first so many."""
        found = [self._folder / f"copy@{number}" for number in range(count)]
        for number, each in enumerate(found):
            if not each.exists():
                shutil.copytree(self._made.adapters[number % 2], each)
        return found


async def measure(folder: Path, made: Model, how: str, *, seconds: float) -> Row:
    """Start, load and look at one of the two."""
    copies = Copies(folder, made)
    adapters = copies.adapters(len(SCENARIOS))
    section = {"ctx_size": 512, "parallel": 4, "startup_timeout": "300s"}
    async with serving(folder, made.gguf, **section, **HOWS[how]) as served:
        home = Neighbours(served, copies, folder)
        began = time.monotonic()
        for number, scenario in enumerate(SCENARIOS):
            applier = await home.move_in(scenario)
            await applier.apply(model(adapters[number], id=f"{scenario}@{number}"), previous=None)
        started = time.monotonic() - began
        counts = [0, 0]
        async with asyncio.timeout(seconds + 60):
            clients = [
                asyncio.create_task(client(served.address, number, made, counts))
                for number in range(CLIENTS)
            ]
            await asyncio.sleep(seconds)
        servers = await home.servers()
        pids = {pid for server in servers for pid in (server, *descendants(server))}
        row = Row(pss_mib(pids), len(servers), started, counts[0] / seconds, counts[1] / seconds)
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        return row


async def client(address: str, number: int, made: Model, counts: list[int]) -> None:
    """Ask one scenario after another."""
    async with httpx.AsyncClient(base_url=address, timeout=120) as http:
        turn = number
        while True:
            scenario = SCENARIOS[turn % len(SCENARIOS)]
            body = {
                "model": scenario,
                "messages": [{"role": "user", "content": f"incident {turn}: what is wrong?"}],
                "max_tokens": made.max_tokens,
                "ignore_eos": True,
            }
            response = await http.post(CHAT, json=body)
            assert response.status_code == 200, response.text
            assert response.headers["x-honed-model"].startswith(f"{scenario}@")
            counts[0] += 1
            counts[1] += response.json()["usage"]["completion_tokens"]
            turn += 1


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    arguments.add_argument("--mid", action="store_true")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--seconds", type=float, default=10)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for make in (tiny, mid) if args.mid else (tiny,):
            (folder / make.__name__).mkdir()
            made = make(folder / make.__name__)
            rows: dict[str, list[Row]] = {how: [] for how in HOWS}
            for turn in range(args.rounds):
                for how in HOWS:
                    place = folder / f"{made.name}-{how}-{turn}"
                    place.mkdir()
                    rows[how].append(asyncio.run(measure(place, made, how, seconds=args.seconds)))
            print(f"{made.name}: {made.gguf.stat().st_size / (1 << 20):.0f} MiB of weights")
            for how, found in rows.items():
                middle = {
                    name: statistics.median(getattr(row, name) for row in found)
                    for name in Row.__dataclass_fields__
                }
                print(
                    f"  {how:7} {middle['processes']:.0f} processes, {middle['mib']:.0f} MiB, "
                    f"all applied in {middle['start_s']:.1f} s, "
                    f"{middle['answers_per_s']:.1f} answers/s, {middle['tokens_per_s']:.0f} tokens/s"
                )


if __name__ == "__main__":
    main()
