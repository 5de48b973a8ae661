"""What each step between the socket and the commit costs, measured alone."""

import collections
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from benchmarks.feeds.peers import INSERT, open_table, row

from honed.domain.events import parse_event
from honed.learn_models import create
from honed.redaction import Redactor
from honed.sink import Sink
from honed.sources.lines import LineCutter
from honed.stores import open_store
from honed.stores.batch import write_batch
from honed.stores.files import parse_url

_SECRET = b"k" * 32
_CHUNK = 256 << 10
_BATCH = 1_000
_ROUNDS = 5


class Stage(NamedTuple):
    """A step and what it costs an event, microseconds of the processor: the best of five rounds."""

    name: str
    us: float


def measure(folder: Path, lines: Sequence[bytes]) -> list[Stage]:
    """The steps in the order in which an event meets them; some hold others."""
    bare = [line.rstrip(b"\n") for line in lines]
    redactor = Redactor(secret=_SECRET)
    stages = [
        _stage("cut into lines", len(lines), _cutting(b"".join(lines))),
        _stage("decode and validate", len(bare), lambda: _drain(map(parse_event, bare))),
        _stage("look for secrets", len(bare), lambda: _look(redactor, bare)),
    ]
    sink = _sink()
    taken: list[Any] = []

    def read() -> None:
        taken.clear()
        for start in range(0, len(bare), 256):
            taken.extend(sink._read(bare[start : start + 256], 1)[0])

    stages.append(_stage("the sink's whole share, without redaction", len(bare), read))
    stages.append(
        _stage("records into an empty table (executemany)", len(bare), _raw(folder, bare))
    )
    stages.append(_stage("records, groups, counters", len(taken), _writing(folder, taken)))
    return stages


def _stage(name: str, count: int, work: Callable[[], object]) -> Stage:
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return Stage(name, best / count * 1e6)


def _cutting(text: bytes) -> Callable[[], object]:
    def cut() -> None:
        cutter = LineCutter(1 << 20)
        for start in range(0, len(text), _CHUNK):
            cutter.feed(text[start : start + _CHUNK])
            cutter.take()

    return cut


def _drain(results: Iterable[object]) -> None:
    collections.deque(results, maxlen=0)


def _look(redactor: Redactor, lines: Sequence[bytes]) -> None:
    for start in range(0, len(lines), 256):
        part = lines[start : start + 256]
        for position in redactor.suspects(part):
            redactor.redact(part[position])


def _sink() -> Sink:
    return Sink(
        _Nowhere(),  # type: ignore[arg-type]
        [create("chat")],
        scenario="bench",
        secret=_SECRET,
        settle=timedelta(seconds=2),
        idle=timedelta(minutes=5),
        on_episode=lambda _: None,
    )


class _Nowhere:
    """No store is asked."""


def _raw(folder: Path, lines: Sequence[bytes]) -> Callable[[], object]:
    rows = [row(line) for line in lines]

    def insert() -> None:
        db = open_table(folder / f"stage-{time.monotonic_ns()}.db")
        _in_batches(db, rows, lambda part: db.executemany(f"INSERT {INSERT}", part))
        db.close()

    return insert


def _writing(folder: Path, events: Sequence[Any]) -> Callable[[], object]:
    empty = folder / "empty.db"
    anyio.run(_make_empty, empty)

    def write() -> None:
        path = folder / f"stage-{time.monotonic_ns()}.db"
        shutil.copyfile(empty, path)
        db = parse_url(f"sqlite:///{path}").connect()
        _in_batches(db, events, lambda part: write_batch(db, part))
        db.close()

    return write


async def _make_empty(path: Path) -> None:
    async with open_store(f"sqlite:///{path}"):
        pass


def _in_batches(
    db: sqlite3.Connection, rows: Sequence[Any], insert: Callable[[Sequence[Any]], object]
) -> None:
    for start in range(0, len(rows), _BATCH):
        db.execute("BEGIN IMMEDIATE")
        insert(rows[start : start + _BATCH])
        db.execute("COMMIT")
