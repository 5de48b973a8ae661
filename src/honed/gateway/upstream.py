"""The gateway's side towards llama-server: one fresh connection per request, bytes handed on as
they come.

No pool: llama-server closes a connection after every streamed answer without saying so, and a
    pooled client that reuses it at that moment loses the request (measured: 28 of 858; always fresh
    0 of 836, for 0.06 ms more).
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from honed.errors import HonedError

HIGH_WATER: Final = 256 << 10
"""Bytes of an answer that may wait for a slow client before reading from llama-server pauses."""

_CONNECT_TIMEOUT_S: Final = 5.0
_FETCH_TIMEOUT_S: Final = 5.0
_FETCH_MAX_BYTES: Final = 64 << 20

Headers = list[tuple[bytes, bytes]]


class UpstreamError(HonedError):
    """llama-server could not be reached, ended its answer early, or sent something that is not
    HTTP.
    """


class UnreachableError(UpstreamError):
    """Nobody listens there; nothing of the request was sent, so another server may have it."""


class Address(NamedTuple):
    """Where a server listens, and what it asks for."""

    host: str
    port: int
    key: str | None = None
    """Shown to it as a bearer token; never told."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """The address in `http://host:port`."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port)

    @property
    def keys(self) -> Headers:
        """The header that shows the key, where there is one."""
        return [(b"authorization", b"Bearer " + self.key.encode())] if self.key else []

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Address({self})"


class Head(NamedTuple):
    """Status and headers of an answer; names in lower case."""

    status: int
    headers: Headers


class Exchange(asyncio.Protocol):
    """One request and its answer on a connection of their own.

    `abort` works in every state, also before the connection stands; then `open` raises.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: Headers = []
        self._head: Head | None = None
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_paused = False
        self._ends_with_connection = False
        self.is_complete = False
        """Whether the whole answer has arrived; its last bytes may still wait in `read`."""
        self._error: UpstreamError | None = None
        self._wake: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ what the relay calls

    async def open(self, address: Address, request: bytes) -> None:
        """Connect and send the request, head and body.

        Raises:
            UnreachableError: nobody listens there; `open` may be tried again.
            UpstreamError: nobody answers there, or the exchange was aborted.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: self, address.host, address.port)
        except (ConnectionRefusedError, ConnectionResetError) as error:
            # reset: it died while the connection waited to be accepted (docs/facts.md)
            raise UnreachableError(f"nobody listens at {address}: {error}") from error
        except (OSError, TimeoutError) as error:
            raise UpstreamError(f"llama-server at {address} cannot be reached: {error}") from error
        if self._error is not None:
            raise self._failure()
        assert self._transport is not None
        self._transport.write(request)

    async def head(self) -> Head:
        """The answer's head. Waits without a limit: a prompt may take minutes, and the client
        decides.
        """
        while self._head is None:
            if self._error is not None:
                raise self._failure()
            await self._progress()
        return self._head

    def _failure(self) -> UpstreamError:
        """What went wrong, as an error of its own: one that is raised and kept holds the frames that it went through,
        and they hold this exchange, its request's body with it, until the collector comes by.
        """
        assert self._error is not None
        return UpstreamError(*self._error.args)

    async def read(self) -> bytes:
        """Whatever has arrived of the body; empty at its end.

        Raises:
            UpstreamError: the answer was cut short (after what arrived before has been read).
        """
        while not self._chunks:
            if self.is_complete:
                return b""
            if self._error is not None:
                raise self._failure()
            await self._progress()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def abort(self) -> None:
        """Drop the connection now; llama-server notices within a tenth of a second."""
        if self._error is None and not self.is_complete:
            self._error = UpstreamError("the exchange was aborted")
        if self._transport is not None:
            self._transport.abort()
        self._notify()

    async def _progress(self) -> None:
        assert self._wake is None, "one reader at a time"
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; an abort that came first is carried out now."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._error is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; pause reading when a slow client leaves too much waiting."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"llama-server did not answer in HTTP: {error!r}")
        if self._waiting_bytes > HIGH_WATER and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._notify()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end: clean, or of an answer that was not finished."""
        if self._ends_with_connection and exc is None:
            self.is_complete = True
        elif not self.is_complete:
            self._fail("llama-server closed the connection before its answer was complete")
        self._parser = self._transport = None  # both hold this exchange in turn
        self._notify()

    def _fail(self, message: str) -> None:
        if self._error is None:
            self._error = UpstreamError(message)
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there; an interim answer (1xx) is passed over."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        names = {name for name, _ in self._headers}
        has_body = self._method != "HEAD" and status not in (204, 304)
        self._ends_with_connection = has_body and not names & {
            b"content-length",
            b"transfer-encoding",
        }
        self._head = Head(status, self._headers)
        self.is_complete = not has_body

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without its chunk framing."""
        self._chunks.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """The body's end."""
        if self._head is not None:
            self.is_complete = True


def request_bytes(
    method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bytes:
    """A request as it goes over the wire; adds Content-Length and asks to close the connection."""
    lines = [method.encode(), b" ", target, b" HTTP/1.1\r\nhost: llama\r\nconnection: close\r\n"]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    if body or method not in ("GET", "HEAD"):
        lines.append(b"content-length: %d\r\n" % len(body))
    lines += (b"\r\n", body)
    return b"".join(lines)


async def fetch(
    address: Address,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    timeout_s: float = _FETCH_TIMEOUT_S,
) -> tuple[int, bytes]:
    """One small request of the gateway's own; returns status and body.

    Raises:
        UpstreamError: no complete answer within `timeout_s`, or one beyond 64 MiB.
    """
    headers = [*address.keys, *([(b"content-type", b"application/json")] if body else [])]
    exchange = Exchange(method)
    try:
        async with asyncio.timeout(timeout_s):
            await exchange.open(address, request_bytes(method, path.encode(), headers, body))
            head = await exchange.head()
            answer = bytearray()
            while chunk := await exchange.read():
                answer += chunk
                if len(answer) > _FETCH_MAX_BYTES:
                    raise UpstreamError(f"{method} {path} on {address}: the answer is too long")
    except TimeoutError as error:
        raise UpstreamError(
            f"{method} {path} on {address}: no answer in {timeout_s:g} s"
        ) from error
    finally:
        exchange.abort()
    return head.status, bytes(answer)
