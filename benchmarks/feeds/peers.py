"""The servers that honed's feed stands beside: each a process of its own on a unix socket.

    python -m benchmarks.feeds.peers "commit per batch"|"commit per event" FOLDER

The first two are what one would write in an afternoon: newline-delimited JSON, `json.loads`, INSERT OR IGNORE, a
commit for each chunk that was read or for each event, then the ack. Both keep the columns and the unique index of
honed's records table and `synchronous=FULL`. Redis gets the line as the one field of a stream's entry.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from honed.listen import is_listening

ROOT = Path(__file__).parents[2]
COLUMNS = "event_id, digest, type, task_id, group_id, session_id, receipt_id, worker_id, received_ms, body"
INSERT = f"INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
TABLE = """
CREATE TABLE IF NOT EXISTS records (
  id INTEGER PRIMARY KEY, event_id TEXT UNIQUE, digest BLOB NOT NULL, type TEXT NOT NULL, task_id TEXT, group_id TEXT,
  session_id TEXT, receipt_id TEXT, worker_id INTEGER, received_ms INTEGER NOT NULL, body BLOB NOT NULL)
"""
BATCH = 500
_START_S = 60


def row(line: bytes) -> tuple[object, ...]:
    """The columns of one event; the digest is a constant: it is not what is measured."""
    event = json.loads(line)
    names = ("task_id", "group_id", "session_id", "receipt_id", "worker_id", "timestamp_ms")
    return (
        event["event_id"],
        b"0123456789abcdef",
        event["type"],
        *[event.get(name) for name in names],
        line,
    )


def open_table(path: Path) -> sqlite3.Connection:
    """Honed's records table with its unique index, and nothing else."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA page_size = 8192")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(TABLE)
    return db


# ------------------------------------------------------------ in this process


def raw_rate(path: Path, rows: Sequence[tuple[object, ...]]) -> float:
    """Rows a second of `executemany` in batches of 500, rows ready-made: the ceiling."""
    db = open_table(path)
    started = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        db.execute("BEGIN IMMEDIATE")
        db.executemany(f"INSERT {INSERT}", rows[start : start + BATCH])
        db.execute("COMMIT")
    seconds = time.perf_counter() - started
    db.close()
    return len(rows) / seconds


def commit_seconds(path: Path, rows: Sequence[tuple[object, ...]]) -> list[float]:
    """How long one row's insert and commit take, one after another."""
    db = open_table(path)
    took = []
    for values in rows:
        started = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"INSERT {INSERT}", values)
        db.execute("COMMIT")
        took.append(time.perf_counter() - started)
    db.close()
    return took


def file_rate(path: Path, lines: Sequence[bytes]) -> float:
    """Lines a second into a plain file with one fsync each."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    started = time.perf_counter()
    for line in lines:
        os.write(file, line)
        os.fsync(file)
    seconds = time.perf_counter() - started
    os.close(file)
    return len(lines) / seconds


# ------------------------------------------------------------ as processes


class Server(NamedTuple):
    """A server that answers on a socket."""

    process: "subprocess.Popen[bytes]"
    socket: Path

    def cpu_seconds(self) -> float:
        """What it has used of the processors since it started."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """The most memory that it has had in RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(each.split()[1]) for each in status if each.startswith("VmHWM")) / 1024


@contextlib.contextmanager
def serving(name: str, folder: Path) -> Iterator[Server]:
    """One of `NAMES` on a fresh folder; ended with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    command, socket = _command(name, folder)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        deadline = time.monotonic() + _START_S
        while not is_listening(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "server.log").read_text()[-2000:]
                raise SystemExit(f"{name} did not start:\n{said}")
            time.sleep(0.05)
        yield Server(process, socket)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


NAMES = ("honed", "honed, no redaction", "commit per batch", "commit per event", "redis")


def is_here(name: str) -> bool:
    """Whether the server can run on this machine."""
    return name != "redis" or shutil.which("redis-server") is not None


def _command(name: str, folder: Path) -> tuple[list[str], Path]:
    socket = folder / "feed.sock"
    if name == "redis":
        options = ["--port", "0", "--appendonly", "yes", "--appendfsync", "always"]
        command = ["redis-server", *options, "--save", "", "--dir", str(folder)]
        return [*command, "--unixsocket", str(socket)], socket
    if name.startswith("commit"):
        return [sys.executable, "-m", "benchmarks.feeds.peers", name, str(folder)], socket
    config = folder / "honed.toml"
    config.write_text(
        'scenario = "bench"\ntrigger = "never()"\nlog_level = "WARNING"\n'
        f'data_dir = "{folder}"\n[learn]\nmodel = "chat"\n'
        + ("[redact]\nenabled = false\n" if name != "honed" else "")
    )
    return [sys.executable, "-m", "honed", "run", "--config", str(config)], socket


async def _serve_naively(folder: Path, *, is_per_event: bool) -> None:
    db = open_table(folder / "naive.db")

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        acked, rest = 0, b""
        while chunk := await reader.read(256 << 10):
            *lines, rest = (rest + chunk).split(b"\n")
            if not lines:
                continue
            rows = [row(line) for line in lines]
            for part in [[each] for each in rows] if is_per_event else [rows]:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(f"INSERT OR IGNORE {INSERT}", part)
                db.execute("COMMIT")
                acked += len(part)
                writer.write(b'{"type":"ack","line":%d}\n' % acked)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(converse, folder / "feed.sock")
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    _, kind, place = sys.argv
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve_naively(Path(place), is_per_event=kind == "commit per event"))
