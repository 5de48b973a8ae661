"""Sends captured calls to a daemon's feed and keeps them until they are acknowledged.

The feed's protocol (newline-delimited JSON on a unix socket): hello, then events; `ack` N says that
lines up to N of this connection are on disk, except those reported by an `error` before it. A lost
connection is made again with back-off and everything unacknowledged is sent again; the daemon
stores an event once (`event_id`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

import honed
from honed import log
from honed.gateway.capture import Call, Captured
from honed.gateway.merge import UnreadableError

PROTOCOL: Final = 1
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
_HELLO_TIMEOUT_S: Final = 5.0
_WINDOW: Final = 256
_WINDOW_BYTES: Final = 8 << 20
_REPLY_MAX: Final = 1 << 20
_INLINE_BYTES: Final = 64 << 10
_RESENT: Final = ("draining", "store")
"""Errors after which the same event is sent again later."""


class _Hello(Struct, tag="hello", tag_field="type"):
    protocol: int
    line_max: int = 1 << 20


class _Ack(Struct, tag="ack", tag_field="type"):
    line: int


class _Error(Struct, tag="error", tag_field="type"):
    code: str
    message: str
    line: int | None = None


_Reply = _Hello | _Ack | _Error
_reply_decoder: msgspec.json.Decoder[_Reply] = msgspec.json.Decoder(_Reply)


class FeedLostError(Exception):
    """The connection is of no more use; what it carried is sent again over the next one."""


class FeedSender:
    """One scenario's way to its daemon."""

    def __init__(self, captured: Captured, feed_socket: Callable[[], Path | None]) -> None:
        self._captured = captured
        self._feed_socket = feed_socket
        self._window: deque[bytes] = deque()
        """Sent or about to be, oldest first; the first one has line number `_first` on this
        connection.
        """
        self._window_bytes = 0
        self._first = 1
        self._line_max = 1 << 20
        self._has_room = anyio.Event()
        self._last_reason: str | None = None

    async def run(self) -> None:
        """Send for ever."""
        retry_s = _FIRST_RETRY_S
        while True:
            done = self._num_done
            try:
                if not self._window:
                    await self._fill()
                await self._send_over_one_connection()
            except* (OSError, FeedLostError, TimeoutError) as group:
                self._say_once(_reason(group))
            retry_s = _FIRST_RETRY_S if self._num_done > done else min(_LAST_RETRY_S, retry_s * 2)
            await anyio.sleep(retry_s)

    @property
    def _num_done(self) -> int:
        return self._captured.sent + self._captured.refused

    def _say_once(self, reason: str) -> None:
        """Log why the feed is away; a daemon that stays away is not logged at every try."""
        if reason != self._last_reason:
            self._last_reason = reason
            log.get(scenario=self._captured.scenario).info(log.FEED_LOST, reason=reason)

    async def _fill(self) -> None:
        """Put the next call that can be told as an event into the window."""
        while True:
            call = await self._captured.take()
            self._captured.unacknowledged += 1
            try:
                # Cancelled half-way (the connection was lost), the call would be in neither queue
                # nor window.
                with anyio.CancelScope(shield=True):
                    line = await _event(call)
            except UnreadableError as error:
                self._captured.settle()
                self._captured.skipped += 1
                log.get(scenario=self._captured.scenario).debug(
                    log.CAPTURE_SKIPPED, reason=str(error)
                )
                continue
            if len(line) >= self._line_max:
                self._captured.settle()
                self._captured.drop(f"the event is longer than {self._line_max} bytes")
                continue
            self._window.append(line)
            self._window_bytes += len(line)
            return

    async def _send_over_one_connection(self) -> None:
        path = self._feed_socket()
        if path is None:
            raise FeedLostError("no feed is registered")
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_REPLY_MAX)
        try:
            with anyio.fail_after(_HELLO_TIMEOUT_S):
                await self._greet(reader, writer)
            self._first = 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_replies, reader)
                await self._write_lines(writer)
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "client": f"honed-gateway/{honed.__version__}",
        }
        writer.write(msgspec.json.encode(hello) + b"\n")
        await writer.drain()
        reply = await _read_reply(reader)
        if not isinstance(reply, _Hello):
            raise FeedLostError(f"the feed did not say hello: {reply}")
        self._line_max = reply.line_max

    async def _write_lines(self, writer: asyncio.StreamWriter) -> None:
        for line in list(self._window):
            _write(writer, line)
        while True:
            await writer.drain()
            while len(self._window) >= _WINDOW or self._window_bytes >= _WINDOW_BYTES:
                self._has_room = anyio.Event()
                await self._has_room.wait()
            await self._fill()
            _write(writer, self._window[-1])

    async def _read_replies(self, reader: asyncio.StreamReader) -> None:
        refused: set[int] = set()
        while True:
            match await _read_reply(reader):
                case _Ack(line=line):
                    self._acknowledge(line, refused)
                case _Error(line=int(line), code=code, message=message) if code not in _RESENT:
                    refused.add(line)
                    log.get(scenario=self._captured.scenario).warning(
                        log.CAPTURE_REFUSED, line=line, code=code, message=message
                    )
                    self._acknowledge(0, refused)
                case reply:
                    raise FeedLostError(f"the feed said {reply}")

    def _acknowledge(self, line: int, refused: set[int]) -> None:
        """Forget the lines up to `line`, and refused ones after it: no ack need come for them."""
        while self._window and (self._first <= line or self._first in refused):
            self._window_bytes -= len(self._window.popleft())
            self._captured.settle()
            if self._first in refused:
                refused.discard(self._first)
                self._captured.refused += 1
            else:
                self._captured.sent += 1
            self._first += 1
        self._has_room.set()


def _write(writer: asyncio.StreamWriter, line: bytes) -> None:
    try:
        writer.write(line + b"\n")
    except RuntimeError as error:  # so uvloop, where asyncio drops the bytes in silence
        raise FeedLostError(f"the connection is closed: {error}") from error


async def _event(call: Call) -> bytes:
    # Merging a long stream takes milliseconds, which the other streams would feel.
    if call.size_bytes > _INLINE_BYTES:
        return await to_thread.run_sync(call.event)
    return call.event()


async def _read_reply(reader: asyncio.StreamReader) -> _Reply:
    try:
        line = await reader.readline()
        if not line:
            raise FeedLostError("the feed closed the connection")
        return _reply_decoder.decode(line)
    except (
        msgspec.DecodeError,
        ValueError,
    ) as error:  # ValueError: a line beyond the reader's limit
        raise FeedLostError(f"the feed's reply cannot be read: {error}") from error


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return f"{type(first).__name__}: {first}"
