"""A scripted llama-server on a real socket, and a relay served in front of it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.gateway.backend import Backend
from honed.gateway.keys import ApiKeys
from honed.gateway.lane import Lane
from honed.gateway.llama_server import LlamaServer
from honed.gateway.relay import NO_LIMITS, Limits, Relay
from honed.gateway.upstream import Address
from honed.listen import serving

Script = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]

CHAT = "/v1/chat/completions"
ANSWER = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "disk: purge"},
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}


@dataclass
class Request:
    """One request as the upstream saw it."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    reader: asyncio.StreamReader

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Upstream:
    """What the scripted server has seen."""

    address: Address
    requests: list[Request] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection was closed from the gateway's side."""


@asynccontextmanager
async def upstream(script: Script) -> AsyncIterator[Upstream]:
    """Listen, read one request per connection and let `script` answer it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read(reader)
            seen.requests.append(request)
            await script(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    seen = Upstream(Address(host, port))
    try:
        yield seen
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.strip().split("\r\n")
    pairs = [each.partition(":") for each in rest]
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Request(line, headers, await reader.readexactly(length), reader)


async def until_closed(request: Request) -> None:
    """Wait until the gateway closes its end."""
    await request.reader.read()


def answering(value: Any = ANSWER, *, headers: str = "") -> Script:
    """Answer every request with `value` as JSON."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        body = msgspec.json.encode(value)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            + headers.encode()
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )

    return script


def delta(**fields: Any) -> bytes:
    """One event of a streamed answer; `finish_reason` goes beside the delta."""
    choice = {"index": 0, "finish_reason": fields.pop("finish_reason", None), "delta": fields}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENTS = (
    delta(role="assistant", content=None),
    delta(content="disk: "),
    delta(content="purge"),
    delta(finish_reason="stop"),
    b"data: [DONE]\n\n",
)


def chunk(data: bytes) -> bytes:
    """`data` in chunk framing."""
    return b"%x\r\n%s\r\n" % (len(data), data)


async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer with events, one write each."""
    writer.write(STREAM_HEAD)
    for event in EVENTS:
        writer.write(chunk(event))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")


def quiet_port() -> int:
    """A free port that the kernel gives to nobody by itself, so that it stays free while its server is away."""
    for port in range(20_000 + os.getpid() % 9_000, 30_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


async def remember() -> None:
    """Nothing to remember."""


def lane_to(
    address: Address | None, folder: Path, *, scenario: str = "tiny", hold_s: float = 0
) -> Lane:
    """A lane whose backend, if there is an address, is not a process of ours."""
    section = ServeSection(hold_timeout=timedelta(seconds=hold_s))
    lane = Lane(scenario, section, folder, remember)
    if address is not None:
        lane.backend = backend_at(address, scenario=scenario)
        lane.state = "active"
    return lane


def backend_at(address: Address, *, scenario: str = "tiny") -> Backend:
    """A backend that is not a process of ours."""
    no_process = cast(LlamaServer, None)
    return Backend(no_process, address, AdapterRef(f"{scenario}@3", "/nowhere"), None, None)


@dataclass
class Front:
    """A served relay."""

    client: httpx.AsyncClient
    address: Address
    lane: Lane
    upstream: Upstream

    async def chat(self, content: str = "hi", **kwargs: Any) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        return await self.client.post(CHAT, json=body, **kwargs)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.address.host, self.address.port)


@asynccontextmanager
async def relaying(
    script: Script,
    folder: Path,
    *,
    max_body: int = 1 << 20,
    captures: bool = True,
    host: str | None = None,
    limits: Limits = NO_LIMITS,
    keys: ApiKeys | None = None,
) -> AsyncIterator[Front]:
    """A relay with one lane to an upstream that follows `script`."""
    async with upstream(script) as seen:
        lane = lane_to(seen.address, folder)
        async with (
            fronted(
                {"tiny": lane},
                max_body=max_body,
                captures=captures,
                host=host,
                limits=limits,
                keys=keys,
            ) as address,
            httpx.AsyncClient(base_url=str(address), timeout=20) as client,
        ):
            yield Front(client, address, lane, seen)
        assert lane.backend is not None
        assert lane.backend.in_flight == 0


@asynccontextmanager
async def fronted(
    lanes: dict[str, Lane],
    *,
    max_body: int = 1 << 20,
    captures: bool = True,
    host: str | None = None,
    default: str | None = None,
    limits: Limits = NO_LIMITS,
    keys: ApiKeys | None = None,
) -> AsyncIterator[Address]:
    """Serve a relay for `lanes`."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = Address(*listener.getsockname())
    relay = Relay(
        lanes,
        max_body=max_body,
        limits=limits,
        keys=keys,
        host=host,
        default=default,
        captures=captures,
    )
    async with serving(relay, listener, drain_s=1):
        yield address
