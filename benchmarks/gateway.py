"""What the gateway costs: latency, core time, requests/s and memory, beside nginx and LiteLLM's proxy.

Each proxy is a process of its own on the first core; a stub llama-server, the daemon's feed and the load share the
second. All are measured in one run, in turn, so that a busy machine hurts them alike; printed are medians of the
rounds. nginx is taken if it is on PATH, LiteLLM if `--litellm` names an interpreter that has `litellm[proxy]`. `relay`
copies bytes over a fresh connection per request and does nothing else: what a Python process costs at the least.

Core time at a rate is not core time flat out: while a core sleeps others take its caches, and the same work takes
longer when it goes on. How much longer on this machine is printed below the tables.

    python benchmarks/gateway.py [--rounds 5] [--seconds 2] [--rate 200] [--litellm PYTHON]
    python benchmarks/gateway.py --memory 1000000      resident memory over that many requests, captured
    python benchmarks/gateway.py --slow-reader         what one client that does not read makes it hold
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

EVENTS, EVENT_EVERY_S = 30, 0.01
CLIENTS = 8
"""Streaming at a time."""
SHARED_RATE = 20.0
"""Requests/s that every contestant holds on these cores, LiteLLM included."""
LONG_STREAM = 256 << 20
CORES = "HONED_BENCH_CORES"
"""Environment variable with the cores that this machine gives; the load takes the last for itself."""


def body(**more: object) -> bytes:
    """A chat request of 1 KB."""
    asked = {"role": "user", "content": "what is wrong? " * 60}
    return json.dumps({"model": "bench", "messages": [asked], **more}).encode()


def answer_of(kind: str, **choice: object) -> bytes:
    """What OpenAI's clients take for an answer."""
    answer = {
        "id": "chatcmpl-1",
        "object": kind,
        "created": 1,
        "model": "bench",
        "choices": [{"index": 0, "finish_reason": None} | choice],
    }
    return json.dumps(answer).encode()


ANSWER = answer_of(
    "chat.completion",
    finish_reason="stop",
    message={"role": "assistant", "content": "the disk is full; " * 40},
)
EVENT = b"data: " + answer_of("chat.completion.chunk", delta={"content": "disk "}) + b"\n\n"
END = answer_of("chat.completion.chunk", delta={}, finish_reason="stop")
DONE = b"data: " + END + b"\n\ndata: [DONE]\n\n"


# ---------------------------------------------------------------- the stub and the gateway


class Stub(asyncio.Protocol):
    """Answers at once, or with events 10 ms apart; closes when asked to, as llama-server does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._waiting = b""
        self._may_write = asyncio.Event()
        self._may_write.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        head, separator, rest = self._waiting.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < length:
            return
        self._waiting = rest[length:]
        closes = b"connection: close" in lower
        if b"long-stream" in rest:
            self._task = asyncio.ensure_future(self._flood())
        elif b'"stream":true' in rest.replace(b" ", b""):
            self._task = asyncio.ensure_future(self._stream(closes=closes))
        else:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(ANSWER), ANSWER)
            )
            if closes:
                self._transport.close()

    def _begin_stream(self) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    async def _stream(self, *, closes: bool) -> None:
        self._begin_stream()
        for _ in range(EVENTS):
            self._transport.write(chunked(EVENT))
            await asyncio.sleep(EVENT_EVERY_S)
        self._transport.write(chunked(DONE) + b"0\r\n\r\n")
        if closes:
            self._transport.close()

    async def _flood(self) -> None:
        """As much as the other side takes."""
        self._begin_stream()
        block = chunked(EVENT * 100)
        for _ in range(LONG_STREAM // len(block)):
            await self._may_write.wait()
            if self._transport.is_closing():
                return
            self._transport.write(block)


def chunked(data: bytes) -> bytes:
    """The data as one chunk of HTTP/1.1."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Acknowledges every line, as the daemon does."""
    await reader.readline()
    writer.write(b'{"type":"hello","protocol":1,"line_max":1048576}\n')
    number = 0
    with contextlib.suppress(ConnectionError):  # the gateway is killed when all is measured
        while await reader.readline():
            number += 1
            writer.write(b'{"type":"ack","line":%d,"stored":1,"duplicates":0}\n' % number)


async def run_stub(feed_socket: str) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=2048)
    await asyncio.start_unix_server(feed, feed_socket)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


class Relay(asyncio.Protocol):
    """Copies bytes, each request's over a connection of its own, as the gateway does; knows nothing of HTTP."""

    upstream_port = 0

    def __init__(self) -> None:
        self._upstream = Back(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A request; those of this file come in one piece."""
        self._upstream.close()
        self._upstream = Back(self)
        self._task = asyncio.ensure_future(self._upstream.ask(data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.close()


class Back(asyncio.Protocol):
    """The way back of one answer."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._transport: asyncio.Transport | None = None

    async def ask(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        port = Relay.upstream_port
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", port)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._relay.transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def run_relay(upstream_port: str) -> None:
    Relay.upstream_port = int(upstream_port)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Relay, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


async def run_gateway(upstream_port: str, feed_socket: str, captures: str) -> None:
    from honed.config import ServeSection
    from honed.gateway.feed import FeedSender
    from honed.gateway.lane import Backend, Lane
    from honed.gateway.relay import Limits
    from honed.gateway.relay import Relay as Gateway
    from honed.gateway.upstream import Address
    from honed.listen import serving

    async def remember() -> None:
        pass

    lane = Lane("bench", ServeSection(), Path(feed_socket).parent, remember)
    address = Address("127.0.0.1", int(upstream_port))
    lane.backend = Backend(cast(Any, None), address, None, None, None)
    sender = asyncio.create_task(FeedSender(lane.captured, lambda: Path(feed_socket)).run())
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    limits = Limits(request_s=ServeSection().request_timeout.total_seconds())
    relay = Gateway({"bench": lane}, max_body=1 << 20, limits=limits, captures=captures == "on")
    async with serving(relay, listener, drain_s=1):
        print(listener.getsockname()[1], flush=True)
        os.dup2(2, 1)  # nobody reads more of the pipe, and a full one would stop the gateway
        await sender


# ---------------------------------------------------------------- the contestants


@dataclass(frozen=True)
class Way:
    """One way from the load to the stub."""

    name: str
    pid: int
    port: int

    def core_s(self) -> float:
        """Processor time so far, of the process and the workers that it has."""
        return sum(core_s(pid) for pid in self._family())

    def rss_mb(self) -> float:
        """Resident memory now."""
        return sum(rss_mb(pid) for pid in self._family())

    def _family(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]


def core_s(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").glob(
        "*/schedstat"
    )  # to the nanosecond; `stat` counts ticks
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], *, core: int, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core, ended with the context."""
    cores = os.environ[CORES].split(",")
    where = int(cores[core % len(cores)])
    process = subprocess.Popen(
        command, preexec_fn=lambda: os.sched_setaffinity(0, {where}), **popen
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def ours(*arguments: str, core: int) -> Iterator[tuple[int, int]]:
    """This file in another role: its process and port."""
    command = [sys.executable, __file__, *arguments]
    with running(command, core=core, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} backlog=2048;
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1;
                  proxy_set_header Connection close; proxy_buffering off; }} }}
}}
"""
LITELLM = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false, drop_params: true}}
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
"""


@contextlib.contextmanager
def contestants(folder: Path, litellm: str | None) -> Iterator[list[Way]]:
    """All of them, started and answering."""
    feed_socket = str(folder / "feed.sock")
    with contextlib.ExitStack() as stack:
        stub_pid, upstream = stack.enter_context(ours("--stub", feed_socket, core=1))
        ways = [Way("direct", stub_pid, upstream)]
        if nginx := shutil.which("nginx"):
            port = free_port()
            config = folder / "nginx.conf"
            config.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
            process = stack.enter_context(running([nginx, "-c", str(config)], core=0))
            ways.append(Way("nginx", process.pid, port))
        ways.append(Way("relay", *stack.enter_context(ours("--relay", str(upstream), core=0))))
        for name, captures in (("gateway", "off"), ("gateway, capture", "on")):
            role = ("--gateway", str(upstream), feed_socket, captures)
            ways.append(Way(name, *stack.enter_context(ours(*role, core=0))))
        if litellm:
            port = free_port()
            config = folder / "litellm.yaml"
            config.write_text(LITELLM.format(upstream=upstream))
            command = [litellm, "-c", "from litellm import run_server; run_server()"]
            command += ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
            process = stack.enter_context(
                running(command, core=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            ways.append(Way("LiteLLM", process.pid, port))
        for way in ways:
            await_port(way)
        yield ways


def await_port(way: Way, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", way.port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{way.name} does not answer") from None
            time.sleep(0.1)


# ---------------------------------------------------------------- the load


def request(content: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(content), content)
    )


PLAIN, STREAMED = request(body()), request(body(stream=True))
FLOOD = request(body(stream=True, user="long-stream"))


@contextlib.asynccontextmanager
async def connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """One request on an open connection; seconds until its answer was whole."""
    began = time.perf_counter()
    writer.write(PLAIN)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
    return time.perf_counter() - began


async def at_rate(port: int, rate: float, seconds: float) -> list[float]:
    """Latencies of an open loop: requests come when they come, on a pool of connections."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    latencies: list[float] = []

    async def one() -> None:
        pair = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        latencies.append(await ask(*pair))
        idle.append(pair)

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
        async with connection(port) as pair:
            while time.perf_counter() < end:
                latencies.append(await ask(*pair))

    await asyncio.gather(*(client() for _ in range(16)))
    return latencies


async def first_events(port: int, seconds: float) -> list[float]:
    """Seconds from request to first event, of clients that stream one answer after another."""
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        await asyncio.sleep(random.random() * EVENTS * EVENT_EVERY_S)  # not all at once
        while time.perf_counter() < end:
            async with connection(port) as (reader, writer):
                began = time.perf_counter()
                writer.write(STREAMED)
                await reader.readuntil(b"data: ")
                waits.append(time.perf_counter() - began)
                await reader.readuntil(b"[DONE]")

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return waits


# ---------------------------------------------------------------- the tables


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def compare(
    ways: list[Way], *, rounds: int, seconds: float, columns: dict[str, Callable[..., Any]]
) -> dict[str, list[float]]:
    """Medians over rounds of what each column's function gives for each way."""
    found: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    for way in ways:
        await flat_out(way.port, 0.5)  # warm
    for _ in range(rounds):
        for way in ways:
            row: list[float] = []
            for measured in columns.values():
                row += await measured(way, seconds)
            found[way.name].append(row)
    return {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }


def paced(rate: float) -> Callable[[Way, float], Any]:
    """p50 and p99 in ms, core time per request in us."""

    async def measured(way: Way, seconds: float) -> list[float]:
        before = way.core_s()
        waits = await at_rate(way.port, rate, seconds)
        core_us = (way.core_s() - before) / len(waits) * 1e6
        return [quantile(waits, 0.5) * 1e3, quantile(waits, 0.99) * 1e3, core_us]

    return measured


async def most(way: Way, seconds: float) -> list[float]:
    """Requests/s of 16 connections, core time per request in us."""
    before = way.core_s()
    num = len(await flat_out(way.port, seconds))
    return [num / seconds, (way.core_s() - before) / num * 1e6]


async def streamed(way: Way, seconds: float) -> list[float]:
    """First event, p50 and p99 in ms."""
    waits = await first_events(way.port, seconds)
    return [quantile(waits, 0.5) * 1e3, quantile(waits, 0.99) * 1e3]


def table(title: str, heads: list[str], rows: dict[str, list[float]], digits: list[int]) -> None:
    """Print the medians, and how much each is above the direct way's."""
    print(f"\n{title}\n{'':18}" + "".join(f"{head:>13}" for head in heads))
    direct = rows["direct"]
    for name, row in rows.items():
        cells = [f"{value:>13.{n}f}" for value, n in zip(row, digits, strict=True)]
        added = f"   +p50 {row[0] - direct[0]:.2f}  +p99 {row[1] - direct[1]:.2f}"
        print(f"{name:18}" + "".join(cells) + ("" if name == "direct" else added))


async def measure(rounds: int, seconds: float, rate: float, litellm: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder, contestants(Path(folder), litellm) as ways:
        quick = [way for way in ways if way.name != "LiteLLM"]
        rows = await compare(
            quick, rounds=rounds, seconds=seconds, columns={"paced": paced(rate), "most": most}
        )
        title = f"{rate:.0f} requests/s, Poisson; medians of {rounds} rounds of {seconds:g} s"
        heads = ["p50 ms", "p99 ms", "core us", "most/s", "core us then"]
        table(title, heads, rows, [2, 2, 0, 0, 0])
        rows = await compare(
            ways, rounds=rounds, seconds=seconds, columns={"paced": paced(SHARED_RATE)}
        )
        table(f"{SHARED_RATE:.0f} requests/s", ["p50 ms", "p99 ms", "core us"], rows, [2, 2, 0])
        rows = await compare(ways, rounds=rounds, seconds=seconds, columns={"events": streamed})
        title = f"first event of {CLIENTS} streaming clients, {EVENTS} events 10 ms apart"
        table(title, ["p50 ms", "p99 ms"], rows, [2, 2])
        print("\nresident MB: " + ", ".join(f"{way.name} {way.rss_mb():.0f}" for way in ways))
        print(f"the same work takes {slower_after_sleep():.1f} times as long after 5 ms of sleep")


def slower_after_sleep() -> float:
    """How much longer work takes that has slept before: code of many modules, nothing else."""

    def seconds(sleep_s: float) -> float:
        argparse.ArgumentParser(prog="warm").parse_args([])
        time.sleep(sleep_s)
        began = time.perf_counter()
        parser = argparse.ArgumentParser(prog="measured")
        parser.add_argument("--number", type=int)
        parser.parse_args(["--number", "3"])
        return time.perf_counter() - began

    pairs = [(seconds(0), seconds(0.005)) for _ in range(200)]
    hot, slept = (statistics.median(each) for each in zip(*pairs, strict=True))
    return slept / hot


async def measure_memory(requests: int) -> None:
    """Resident memory of the capturing gateway over many requests, plain and some streamed."""
    with tempfile.TemporaryDirectory() as folder, contestants(Path(folder), None) as ways:
        way = ways[-1]
        done = 0
        for share in (0, 0.01, 0.1, 0.25, 0.5, 0.75, 1):
            while done < requests * share:
                done += len(await flat_out(way.port, 5)) + len(await first_events(way.port, 0.5))
            print(f"{done:>10,} requests: {way.rss_mb():.1f} MB", flush=True)


async def measure_slow_reader() -> None:
    """What the gateway comes to hold for one client that asks for a long stream and does not read."""
    with tempfile.TemporaryDirectory() as folder, contestants(Path(folder), None) as ways:
        way = ways[-1]
        await flat_out(way.port, 1)
        before = way.rss_mb()
        async with connection(way.port) as (reader, writer):
            cast(Any, reader)._limit = 1  # the stream's own buffer stays small
            writer.write(FLOOD)
            await reader.readexactly(1)
            for second in range(1, 6):
                await asyncio.sleep(1)
                print(f"after {second} s: {way.rss_mb() - before:+.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--litellm", help="interpreter that has litellm[proxy]")
    parser.add_argument("--memory", type=int, metavar="REQUESTS")
    parser.add_argument("--slow-reader", action="store_true")
    parser.add_argument("--stub", nargs=1, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--relay", nargs=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stub:
        uvloop.run(run_stub(*arguments.stub))
    elif arguments.relay:
        uvloop.run(run_relay(*arguments.relay))
    elif arguments.gateway:
        uvloop.run(run_gateway(*arguments.gateway))
    else:
        cores = sorted(os.sched_getaffinity(0))
        os.environ[CORES] = ",".join(map(str, cores))
        os.sched_setaffinity(0, {cores[-1]})
        if arguments.memory:
            uvloop.run(measure_memory(arguments.memory))
        elif arguments.slow_reader:
            uvloop.run(measure_slow_reader())
        else:
            uvloop.run(
                measure(arguments.rounds, arguments.seconds, arguments.rate, arguments.litellm)
            )


if __name__ == "__main__":
    main()
