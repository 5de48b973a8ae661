"""Clients: many connections with a window of lines on their way, or one that waits for each ack."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

WINDOW = 4_000
"""Lines on their way at a time, over all connections."""


class Fed(NamedTuple):
    """What came of feeding some lines."""

    rate: float
    """Acknowledged events a second."""
    waits: list[float]
    """Seconds from the write of each part to the ack of its last line."""


class Wire(NamedTuple):
    """How a server is spoken to."""

    encode: Callable[[Sequence[bytes]], bytes]
    count: Callable[[bytes, int], int]
    """Lines acknowledged after this whole answer line, given how many were before it."""


def _json_ack(answer: bytes, _: int) -> int:
    reply = json.loads(answer)
    if reply["type"] != "ack":
        raise SystemExit(f"refused: {reply}")
    return int(reply["line"])


def _xadd(lines: Sequence[bytes]) -> bytes:
    return b"".join(
        b"*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$1\r\nb\r\n$%d\r\n%s\r\n"
        % (len(line), line)
        for line in lines
    )


def _xadd_reply(answer: bytes, acked: int) -> int:
    if answer.startswith(b"-"):
        raise SystemExit(f"refused: {answer.decode()}")
    return acked + (not answer.startswith(b"$"))  # `$15`, then the id on a line of its own


JSON_LINES = Wire(b"".join, _json_ack)
REDIS = Wire(_xadd, _xadd_reply)


def wire_of(name: str) -> Wire:
    """The wire of a server by its name in `peers.NAMES`."""
    return REDIS if name == "redis" else JSON_LINES


async def feed(socket: Path, lines: Sequence[bytes], *, wire: Wire, connections: int) -> Fed:
    """Send all lines, spread over the connections, and wait for their acks."""
    shares = [lines[n::connections] for n in range(connections)]
    window = WINDOW // connections
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        each = [tasks.create_task(_feed_one(socket, share, wire, window)) for share in shares]
    seconds = time.perf_counter() - started
    return Fed(len(lines) / seconds, [wait for done in each for wait in done.result()])


async def feed_one_by_one(socket: Path, lines: Sequence[bytes], *, wire: Wire) -> list[float]:
    """One connection that sends a line only when the one before is acknowledged; seconds of each."""
    return await _feed_one(socket, lines, wire, 1)


async def _feed_one(socket: Path, lines: Sequence[bytes], wire: Wire, window: int) -> list[float]:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    sent = acked = 0
    parts: list[tuple[int, float]] = []
    waits: list[float] = []
    while acked < len(lines):
        while sent < len(lines) and sent - acked < window:
            size = min(max(1, window // 4), len(lines) - sent)
            writer.write(wire.encode(lines[sent : sent + size]))
            sent += size
            parts.append((sent, time.perf_counter()))
        await writer.drain()
        acked = wire.count(await reader.readline(), acked)
        now = time.perf_counter()
        while parts and parts[0][0] <= acked:
            waits.append(now - parts.pop(0)[1])
    writer.close()
    return waits
