"""The feed protocol, version 1: what is said on one connection, in `docs/protocol.md`'s words.

No I/O beyond the sink: bytes that came in, bytes to send back.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

import honed
from honed import log
from honed.errors import StoreError
from honed.ports import DataSink, Ingested
from honed.sources.lines import LineCutter, LineTooLongError

PROTOCOL: Final = 1

_ADVICE: Final = {
    "invalid": "mend the event and send it again; the other lines are not affected",
    "conflict": "repeat an event byte for byte, and give another event another event_id",
}

_SHOWN: Final = 40
"""Bytes of what a peer sent that an answer repeats."""

_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """What to send, and whether the connection ends with it."""

    data: bytes
    ends: bool = False


class Feed:
    """One connection's side of the protocol: counts its lines, acknowledges what is on disk."""

    def __init__(self, sink: DataSink, *, scenario: str, line_max: int) -> None:
        self._sink = sink
        self._scenario = scenario
        self._line_max = line_max
        self._cutter = LineCutter(line_max)
        self._is_first = True
        self.num_lines = 0
        """Event lines so far: the hello and blank lines are not counted."""

    async def receive(self, chunk: bytes) -> Reply:
        """Ingest the whole lines of a chunk, together with what was left of the one before."""
        too_long = False
        try:
            self._cutter.feed(chunk)
        except LineTooLongError:
            too_long = True
        lines = self._cutter.take()
        answer = b""
        if lines and self._is_first:
            self._is_first = False
            if (hello := _as_hello(lines[0])) is not None:
                if hello.get("protocol") != PROTOCOL:
                    return self._refuse_protocol(hello)
                answer += self._hello()
                lines = lines[1:]
        if lines:
            reply = await self._ingest(lines)
            answer += reply.data
            if reply.ends:
                return Reply(answer, ends=True)
        if too_long:
            return Reply(answer + self._too_long(), ends=True)
        return Reply(answer)

    def end(self) -> Reply:
        """What to say to a peer that has closed its side: a line without an end is not stored."""
        if not self._cutter.has_half_line:
            return Reply(b"", ends=True)
        self._sink.reject(1)
        message = "the line has no end: expected a newline before the connection closes"
        return Reply(_error(self.num_lines + 1, "invalid", message, path="$"), ends=True)

    @property
    def is_in_mid_line(self) -> bool:
        """Whether a line has begun whose end has not come."""
        return self._cutter.has_half_line

    def idle(self, seconds: float) -> Reply:
        """What to say to a peer that sent nothing for so long."""
        number = self.num_lines + 1
        if self.is_in_mid_line:
            message = f"line {number} has no end: nothing came for {seconds:g} s"
        else:
            message = f"nothing came for {seconds:g} s"
        advice = "connect again when there is something to send, in whole lines"
        return Reply(_error(number, "idle", message, advice=advice), ends=True)

    def drain(self) -> Reply:
        """What to say when the daemon stops."""
        message = "the daemon is stopping; lines after the last ack are not stored"
        advice = "connect again and send them again"
        error = _error(self.num_lines + 1, "draining", message, advice=advice)
        return Reply(error, ends=True)

    async def _ingest(self, lines: Sequence[bytes]) -> Reply:
        before = self.num_lines
        self.num_lines += len(lines)
        try:
            ingested = await self._sink.ingest(lines)
        except StoreError as error:
            log.get().error(log.BATCH_FAILED, num_lines=len(lines), error=str(error))
            said = _error(before + 1, "store", str(error), advice=error.advice)
            return Reply(said, ends=True)
        return Reply(self._verdicts(before, ingested))

    def _verdicts(self, before: int, ingested: Ingested) -> bytes:
        """The errors of a batch and then its ack, as one write."""
        said = [
            _error(before + 1 + position, code, message, path=path, advice=_ADVICE[code])
            for position, code, message, path in ingested.rejected
        ]
        ack = {
            "type": "ack",
            "line": self.num_lines,
            "stored": ingested.stored,
            "duplicates": ingested.duplicates,
        }
        said.append(_line(ack))
        return b"".join(said)

    def _hello(self) -> bytes:
        return _line(
            {
                "type": "hello",
                "protocol": PROTOCOL,
                "server": f"honed/{honed.__version__}",
                "scenario": self._scenario,
                "line_max": self._line_max,
            }
        )

    def _refuse_protocol(self, hello: dict[str, Any]) -> Reply:
        if "protocol" in hello:
            named = _encode(hello["protocol"])[:_SHOWN].decode(errors="replace")
            message = f"protocol {named} is not spoken here: expected {PROTOCOL}"
        else:
            message = f'the hello names no protocol: expected "protocol":{PROTOCOL}'
        advice = "use a client of the same generation as the daemon"
        return Reply(_error(0, "protocol", message, advice=advice), ends=True)

    def _too_long(self) -> bytes:
        self._sink.reject(1)
        message = f"line {self.num_lines + 1} is longer than {self._line_max} bytes"
        advice = "raise events.line_max, or send less in one event"
        return _error(self.num_lines + 1, "too_long", message, advice=advice)


def busy(connections_max: int) -> bytes:
    """What a connection hears that is one too many, instead of everything else."""
    message = f"all {connections_max} connections are in use"
    advice = "close idle connections, or raise the daemon's limit of open files; then connect again"
    return _error(0, "busy", message, advice=advice)


def forbidden(uid: int) -> bytes:
    """What a peer hears whose user may not send events."""
    message = f"user {uid} may not send events to this daemon"
    return _error(0, "forbidden", message, advice=f"add {uid} to events.allow_uids of its config")


def _error(
    line: int, code: str, message: str, *, path: str | None = None, advice: str | None = None
) -> bytes:
    said: dict[str, Any] = {"type": "error", "line": line, "code": code, "message": message}
    if path is not None:
        said["path"] = path
    if advice is not None:
        said["advice"] = advice
    return _line(said)


def _line(said: dict[str, Any]) -> bytes:
    return _encode(said) + b"\n"


def _as_hello(line: bytes) -> dict[str, Any] | None:
    if b'"hello"' not in line:
        return None
    try:
        said = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return said if isinstance(said, dict) and said.get("type") == "hello" else None
