"""The daemon's memory under a long stream of events: it does not follow their number.

`EVENTS=n` is the length of the long form, 2,000,000 by default:

    EVENTS=2000000 pytest tests/faults/test_memory.py -m long -s --timeout 1800
"""

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from honed.client import HonedClient
from tests.feed_parts import action, line, success
from tests.processes import Honed, honed, resident_mib

SETTINGS = (
    'scenario = "swarm"\ntrigger = "manual()"\n[apply]\nkind = "none"\n[events]\nsettle = "0.5s"'
)
EVENTS = int(os.environ.get("EVENTS", "2000000"))
CLIENTS = 2
BATCH = 1_000
GROWTH_MIB = 20.0


def attempts(name: str) -> Iterator[list[bytes]]:
    """Batches of whole attempts: nineteen actions and a verdict each."""
    for number in itertools.count():
        batch = []
        for part in range(BATCH // 20):
            task = f"{name}-{number}-{part}"
            batch += [line(action(task_id=task, tick=n, target="x" * 200)) for n in range(19)]
            batch.append(line(success(task_id=task)))
        yield batch


def send(path: str, name: str, count: int) -> None:
    with HonedClient(path, timeout_s=60) as client:
        for batch in itertools.islice(attempts(name), count // BATCH):
            client.send_lines(batch)


@pytest.mark.parametrize(
    "count", [30_000, pytest.param(EVENTS, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])]
)
def test_memory_does_not_follow_the_number_of_events(
    tmp_path: Path, count: int, record_property: Callable[[str, object], None]
) -> None:
    """Sampled ten times on the way: within 20 MiB from the first tenth to the end, episodes being made of them."""
    with honed(tmp_path, SETTINGS) as daemon:
        pid = daemon.start("run").pid
        sizes = {0: resident_mib(pid)}
        began_s = time.monotonic()
        path = str(daemon.data_dir / "feed.sock")
        # spawned: a fork would take the descriptors of this process along
        context = multiprocessing.get_context("spawn")
        clients = [
            context.Process(target=send, args=(path, f"c{n}", count // CLIENTS))
            for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for tenth in range(1, 11):
            sizes[stored(daemon, count * tenth // 10)] = resident_mib(pid)
        for client in clients:
            client.join(60)
            assert client.exitcode == 0
        seconds = time.monotonic() - began_s
        daemon.until(
            lambda: daemon.status()["open_groups"] == 0,
            "all are episodes",
            limit_s=30 + seconds * 4,
        )
        sizes[-1] = resident_mib(pid)
        figures = {
            "events": count,
            "seconds": round(seconds, 1),
            "episodes": daemon.status()["episodes"],
            "rss_mib": {num or "start": round(size, 1) for num, size in sizes.items() if num >= 0}
            | {"all closed": round(sizes[-1], 1)},
        }
        print(f"\nmemory: {json.dumps(figures)}")  # noqa: T201 - shown by `pytest -s`
        record_property("memory", figures)
        assert figures["episodes"] == count // 20
    warm = [size for num, size in sizes.items() if num]
    assert max(warm) - warm[0] < GROWTH_MIB, figures


def stored(daemon: Honed, goal: int) -> int:
    """Wait until so many are stored; how many there are."""

    def reached() -> int:
        found: int = daemon.status()["records"]
        return found if found >= goal else 0

    return daemon.until(reached, f"{goal} events are stored", limit_s=600)
