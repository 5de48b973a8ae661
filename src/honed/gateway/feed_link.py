"""One connection to a daemon's feed (docs/protocol.md): a hello, lines, and what became of each."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio
import msgspec
from msgspec import Struct

import honed
from honed import log

PROTOCOL: Final = 1
_HELLO_TIMEOUT_S: Final = 5.0
_REPLY_MAX: Final = 1 << 20
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


class FeedLink:
    """An open connection whose hello was answered."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        scenario: str,
        line_max: int,
    ) -> None:
        self.line_max = line_max
        """Bytes that a line may have."""
        self._reader = reader
        self._writer = writer
        self._scenario = scenario

    def write(self, line: bytes) -> None:
        """Send a line, its newline included, as soon as there is room; raises FeedLostError."""
        try:
            self._writer.write(line)
        except RuntimeError as error:  # so uvloop, where asyncio drops the bytes in silence
            raise FeedLostError(f"the connection is closed: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def drain(self) -> None:
        """Wait until most of what was written is on its way."""
        await self._writer.drain()

    async def verdicts(self) -> AsyncIterator[bool]:
        """For each line that was written, in order: whether it is on the daemon's disk, or refused.

        Raises:
            FeedLostError: the connection ended; no more is known of the other lines.
        """
        first = 1
        refused: set[int] = set()
        while True:
            acknowledged = 0
            match await _read_reply(self._reader):
                case _Ack(line=line):
                    acknowledged = line
                case _Error(line=int(line), code=code, message=message) if code not in _RESENT:
                    refused.add(line)
                    log.get(scenario=self._scenario).warning(
                        log.CAPTURE_REFUSED, line=line, code=code, message=message
                    )
                case reply:
                    raise FeedLostError(f"the feed said {reply}")
            while first <= acknowledged or first in refused:  # no ack need come for those refused
                yield first not in refused
                refused.discard(first)
                first += 1


async def open_feed(path: Path, *, scenario: str) -> FeedLink:
    """A connection to the feed at `path`.

    Raises:
        OSError: nobody listens there.
        TimeoutError: whoever does is silent.
        FeedLostError: it is no feed, or has no room.
    """
    reader, writer = await asyncio.open_unix_connection(str(path), limit=_REPLY_MAX)
    try:
        with anyio.fail_after(_HELLO_TIMEOUT_S):
            line_max = await _greet(reader, writer)
    except BaseException:
        writer.close()
        raise
    return FeedLink(reader, writer, scenario=scenario, line_max=line_max)


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
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
    return reply.line_max


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
