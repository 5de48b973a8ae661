"""What the gateway costs: latency, core time and requests/s against a stub llama-server called directly.

Three processes: this one makes the load, one is the stub (and the daemon's feed), one the gateway. Everything is
measured in one run, direct and through the gateway in turn, so that a busy machine hurts both alike; printed are
medians of the rounds.

    python benchmarks/gateway.py [--rounds 5] [--seconds 2] [--rate 200]
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import uvloop

BODY = json.dumps(
    {"model": "bench", "messages": [{"role": "user", "content": "what is wrong? " * 40}]}
).encode()
MESSAGE = {"role": "assistant", "content": "the disk is full; " * 40}
ANSWER = json.dumps(
    {"choices": [{"index": 0, "finish_reason": "stop", "message": MESSAGE}]}
).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


# ---------------------------------------------------------------- the other two processes


class Stub(asyncio.Protocol):
    """Answers every request at once; closes when asked to, as llama-server does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._waiting = b""

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        if not self._waiting.endswith(BODY):
            return
        closes = b"connection: close" in self._waiting
        self._waiting = b""
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(ANSWER), ANSWER)
        )
        if closes:
            self._transport.close()


async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Acknowledges every line."""
    await reader.readline()
    writer.write(b'{"type":"hello","protocol":1,"line_max":1048576}\n')
    number = 0
    with contextlib.suppress(ConnectionError):  # the gateway is killed when all is measured
        while await reader.readline():
            number += 1
            writer.write(b'{"type":"ack","line":%d,"stored":1,"duplicates":0}\n' % number)


async def run_stub(feed_socket: str) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    await asyncio.start_unix_server(feed, feed_socket)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def run_gateway(upstream_port: str, feed_socket: str, captures: str) -> None:
    from honed.config import ServeSection
    from honed.gateway.feed import FeedSender
    from honed.gateway.lane import Backend, Lane
    from honed.gateway.relay import Relay
    from honed.gateway.upstream import Address
    from honed.listen import serving

    async def remember() -> None:
        pass

    lane = Lane("bench", ServeSection(), Path(), remember)
    address = Address("127.0.0.1", int(upstream_port))
    lane.backend = Backend(cast(Any, None), address, None, None, None)
    sender = asyncio.create_task(FeedSender(lane.captured, lambda: Path(feed_socket)).run())
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    relay = Relay({"bench": lane}, max_body=1 << 20, captures=captures == "on")
    async with serving(relay, listener, drain_s=1):
        print(listener.getsockname()[1], flush=True)
        await sender


# ---------------------------------------------------------------- the load


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """One request on an open connection; seconds until its answer was whole."""
    began = time.perf_counter()
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    await reader.readexactly(len(ANSWER))
    return time.perf_counter() - began


async def at_rate(port: int, rate: float, seconds: float) -> list[float]:
    """Latencies of an open loop: requests come when they come, on a pool of connections."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    latencies: list[float] = []

    async def one() -> None:
        connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        latencies.append(await ask(*connection))
        idle.append(connection)

    end = time.perf_counter() + seconds
    async with asyncio.TaskGroup() as tasks:
        while time.perf_counter() < end:
            tasks.create_task(one())
            await asyncio.sleep(random.expovariate(rate))
    for _, writer in idle:
        writer.close()
    return latencies


async def flat_out(port: int, seconds: float) -> list[float]:
    """Latencies of a closed loop of 16 connections."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            latencies.append(await ask(*connection))
        connection[1].close()

    await asyncio.gather(*(client() for _ in range(16)))
    return latencies


def core_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def started(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def measure(rounds: int, seconds: float, rate: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        feed_socket = f"{folder}/feed.sock"
        stub, stub_port = started("--stub", feed_socket)
        off, off_port = started("--gateway", str(stub_port), feed_socket, "off")
        on, on_port = started("--gateway", str(stub_port), feed_socket, "on")
        try:
            ways = {
                "direct": (stub, stub_port),
                "gateway": (off, off_port),
                "gateway, capture": (on, on_port),
            }
            await report(ways, rounds, seconds, rate)
        finally:
            for process in (on, off, stub):
                process.kill()
                process.wait()


async def report(
    ways: dict[str, tuple[subprocess.Popen[bytes], int]], rounds: int, seconds: float, rate: float
) -> None:
    for _, port in ways.values():
        await at_rate(port, rate, 0.5)  # warm
    rows: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (process, port) in ways.items():
            before = core_s(process.pid)
            paced = sorted(await at_rate(port, rate, seconds))
            core_us = (core_s(process.pid) - before) / len(paced) * 1e6
            quick = await flat_out(port, seconds)
            rows[name].append(
                [
                    statistics.median(paced) * 1000,
                    paced[int(len(paced) * 0.99)] * 1000,
                    core_us,
                    len(quick) / seconds,
                ]
            )
    medians = {
        name: [statistics.median(column) for column in zip(*row, strict=True)]
        for name, row in rows.items()
    }
    print(f"{rate:.0f} requests/s, Poisson; medians of {rounds} rounds of {seconds:g} s")
    print(
        f"{'':18}{'p50 ms':>9}{'p99 ms':>9}{'+p50':>8}{'+p99':>8}{'core us':>9}{'max/s':>9}{'MB':>6}"
    )
    direct = medians["direct"]
    for name, (p50, p99, core, most) in medians.items():
        added = f"{p50 - direct[0]:>8.2f}{p99 - direct[1]:>8.2f}"
        memory = rss_mb(ways[name][0].pid)
        print(f"{name:18}{p50:>9.2f}{p99:>9.2f}{added}{core:>9.0f}{most:>9.0f}{memory:>6.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--stub", nargs=1, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    run: Callable[..., Awaitable[None]] = measure
    values: tuple[Any, ...] = (arguments.rounds, arguments.seconds, arguments.rate)
    if arguments.stub:
        run, values = run_stub, tuple(arguments.stub)
    elif arguments.gateway:
        run, values = run_gateway, tuple(arguments.gateway)
    uvloop.run(cast(Any, run(*values)))


if __name__ == "__main__":
    main()
