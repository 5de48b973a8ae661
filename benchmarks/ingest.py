"""How much of SQLite's own insert rate the feed keeps: socket, validation, digest, groups and acks.

    python benchmarks/ingest.py [--rounds 4] [--events 80000] [--folder DIR]

Each round runs raw `sqlite3` (`executemany`, batches of 500, the columns and the unique index of the records table,
synchronous=FULL) and right after it the daemon's own store, sink and socket in a process of their own, fed by one
client process over 8 connections. The two are compared inside a round, because disks change their mind. Both write
fresh files into the same folder; on tmpfs no sync is paid, which is the harder test.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import anyio

from honed import log
from honed.client.wire import new_event_id
from honed.learn_models import create
from honed.sink import Sink
from honed.sources import SocketSource
from honed.stores import open_store
from honed.stores.migrations import STEPS

CONNECTIONS = 8
WINDOW = 4_000
"""Lines on their way at a time, over all connections."""


def make_lines(count: int) -> list[bytes]:
    """Events of about 930 bytes, 70 % actions and 30 % calls, 10 to a task, in the order of their ids."""
    rng = random.Random(7)
    words = ["cache", "queue", "pod", "node", "shard", "lease", "probe", "quota", "retry", "span"]
    lines = []
    for n in range(count):
        text = " ".join(rng.choices(words, k=60))
        event = {
            "event_id": new_event_id(),
            "task_id": f"task-{n // 80 * 8 + n % 8:07d}",
            "group_id": f"group-{n // 800}",
            "timestamp_ms": 1_772_442_123_456 + n,
            "session_id": f"session-{n % 97}",
        }
        if n % 10 < 7:
            event |= {
                "type": "action",
                "tick": n // 8,
                "worker_id": n % 8,
                "action": f"read_{n % 13}",
                "target": "billing-api",
                "result": {"success": n % 5 != 0, "output": text + "\n" + text[:200]},
                "context": {"selection_logic": "ucb1", "extra": {"agent": "sre-2"}},
            }
        else:
            event |= {
                "type": "llm_call",
                "model": "small",
                "messages": [{"role": "user", "content": text}],
                "response_message": {"role": "assistant", "content": text[:250] + "\n"},
                "receipt_id": f"r-{n:08d}",
                "latency_ms": 120,
            }
        lines.append(json.dumps(event).encode() + b"\n")
    return lines


def raw_rate(path: Path, lines: Sequence[bytes]) -> float:
    """Rows per second of `executemany` into the records table alone."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA page_size = 8192")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    for statement in STEPS[0]:
        if "TABLE records" in statement or "ON records" in statement:
            db.execute(statement)
    rows = [_row(line) for line in lines]
    insert = (
        "INSERT INTO records (event_id, digest, type, task_id, group_id, session_id, receipt_id,"
        " worker_id, received_ms, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    started = time.perf_counter()
    for start in range(0, len(rows), 500):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(insert, rows[start : start + 500])
        db.execute("COMMIT")
    seconds = time.perf_counter() - started
    db.close()
    return len(rows) / seconds


def _row(line: bytes) -> tuple[object, ...]:
    event = json.loads(line)
    names = ("task_id", "group_id", "session_id", "receipt_id", "worker_id", "timestamp_ms")
    fields = [event.get(name) for name in names]
    return (event["event_id"], b"0123456789abcdef", event["type"], *fields, line)


async def serve(folder: Path, learn_model: str) -> None:
    """Store, sink and socket as the daemon has them, until stdin closes."""
    log.configure(level="ERROR")
    async with open_store(
        f"sqlite:///{folder / 'honed.db'}", queue_size=10_000, queue_bytes=64 << 20, batch_max=1_000
    ) as store:
        sink = Sink(
            store,
            [create(learn_model)],
            scenario="bench",
            secret=b"k" * 32,
            settle=timedelta(seconds=2),
            idle=timedelta(minutes=5),
            on_episode=lambda _: None,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run)
            source = SocketSource(folder / "feed.sock", sink, scenario="bench", line_max=1 << 20)
            async with source.open():
                print("ready", flush=True)
                await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            tasks.cancel_scope.cancel()


def peak_mib(process: "subprocess.Popen[bytes]") -> float:
    """The most memory that the process has had in RAM."""
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in status if row.startswith("VmHWM")) / 1024


async def feed(socket_path: Path, lines: Sequence[bytes]) -> float:
    """Acked events per second over all connections."""
    shares = [lines[n::CONNECTIONS] for n in range(CONNECTIONS)]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for share in shares:
            tasks.create_task(_feed_one(socket_path, share))
    return len(lines) / (time.perf_counter() - started)


async def _feed_one(socket_path: Path, lines: Sequence[bytes]) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    sent = acked = 0
    while acked < len(lines):
        while sent < len(lines) and sent - acked < WINDOW // CONNECTIONS:
            size = min(WINDOW // CONNECTIONS // 4, len(lines) - sent)
            writer.write(b"".join(lines[sent : sent + size]))
            sent += size
        await writer.drain()
        reply = json.loads(await reader.readline())
        assert reply["type"] == "ack", reply
        acked = reply["line"]
    writer.close()


def served_rate(folder: Path, lines: Sequence[bytes], learn_model: str) -> tuple[float, float]:
    """Acked events per second of a fresh server, and its peak of resident memory in MiB."""
    command = [sys.executable, __file__, "--serve", str(folder), "--learn-model", learn_model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        server.stdout.readline()
        rate = asyncio.run(feed(folder / "feed.sock", lines))
        peak = peak_mib(server)
        server.stdin.close()
        server.wait(60)
    db = sqlite3.connect(folder / "honed.db")
    (count,) = db.execute("SELECT count(DISTINCT event_id) FROM records").fetchone()
    db.close()
    assert count == len(lines), f"{count} of {len(lines)} events are stored"
    return rate, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--events", type=int, default=80_000)
    parser.add_argument("--folder", type=Path, help="default: the folder for temporary files")
    parser.add_argument("--learn-model", default="chat")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        anyio.run(serve, arguments.serve, arguments.learn_model)
        return
    lines = make_lines(arguments.events)
    print(f"{len(lines)} events of {statistics.mean(map(len, lines)):.0f} bytes")
    ratios = []
    for number in range(1, arguments.rounds + 1):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            raw = raw_rate(folder / "raw.db", lines)
            served, peak = served_rate(folder, lines, arguments.learn_model)
        ratios.append(served / raw)
        print(
            f"round {number}: raw {raw:8.0f}/s  feed {served:8.0f}/s  ratio {served / raw:.2f}"
            f"  peak {peak:.0f} MiB"
        )
    print(f"median ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]")


if __name__ == "__main__":
    main()
