"""The bookkeeping of one `send`: what is acknowledged, what must go again; without I/O."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from honed.client.faults import RefusedError, RejectedError, RejectedEvent

WINDOW_LINES: Final = 256
WINDOW_BYTES: Final = 256 << 10
"""What is sent before an ack is waited for; the replies to it fit into the socket's buffer."""

_RETRYABLE: Final = ("draining", "store", "busy", "idle")


class Sent(NamedTuple):
    """What became of the events of one `send`, all of them on disk."""

    stored: int
    duplicates: int
    event_ids: tuple[str, ...]


class DaemonLeftError(Exception):
    """The daemon ends the conversation for a reason that may pass."""

    def __init__(self, refused: RefusedError) -> None:
        super().__init__(str(refused))
        self.refused = refused


class Exchange:
    """The events of one `send` on their way, window by window."""

    def __init__(self, lines: Sequence[bytes], event_ids: Sequence[str]) -> None:
        self._lines = lines
        self._event_ids = tuple(event_ids)
        self._acked = 0
        self._end = 0
        self._base = 0
        self._told: list[RejectedEvent] = []
        self._rejected: list[RejectedEvent] = []
        self._stored = 0
        self._duplicates = 0

    @property
    def is_done(self) -> bool:
        """Whether every event is acknowledged or rejected."""
        return self._acked == len(self._lines)

    @property
    def is_window_done(self) -> bool:
        """Whether everything that was sent is answered."""
        return self._acked == self._end

    def check(self, line_max: int) -> None:
        """Refuse, before anything is sent, a line that the daemon would end the conversation for.

        Raises:
            RefusedError: a line is longer than `line_max` bytes; the message names it.
        """
        for position, line in enumerate(self._lines):
            if len(line) - 1 > line_max:
                size = f"{len(line) - 1} bytes, the daemon takes {line_max}"
                raise RefusedError("too_long", f"event {position} has {size}; nothing was sent")

    def window(self, lines_before: int) -> list[bytes]:
        """The next lines to send, on a connection that has carried `lines_before` lines."""
        self._base = lines_before - self._acked
        self._told.clear()
        self._end, size = self._acked, 0
        for line in self._lines[self._acked : self._acked + WINDOW_LINES]:
            size += len(line)
            if self._end > self._acked and size > WINDOW_BYTES:
                break
            self._end += 1
        return list(self._lines[self._acked : self._end])

    def take(self, reply: dict[str, Any]) -> None:
        """Note one reply of the daemon.

        Raises:
            RefusedError: the conversation is over, and sending again would not help.
            DaemonLeftError: the conversation is over; another connection may do.
        """
        if reply.get("type") == "ack":
            self._acked = int(reply["line"]) - self._base
            self._stored += int(reply.get("stored", 0))
            self._duplicates += int(reply.get("duplicates", 0))
            self._rejected += self._told
            self._told.clear()
        elif reply.get("type") == "error":
            self._take_error(reply)

    def result(self) -> Sent:
        """What became of the events; raises RejectedError when some were not stored."""
        if self._rejected:
            raise RejectedError(self._rejected, stored=self._stored, duplicates=self._duplicates)
        return Sent(self._stored, self._duplicates, self._event_ids)

    def _take_error(self, reply: dict[str, Any]) -> None:
        code, message = str(reply.get("code")), str(reply.get("message"))
        if code in ("invalid", "conflict"):
            position = int(reply["line"]) - self._base - 1
            path = str(reply.get("path", "$"))
            self._told.append(RejectedEvent(position, code, path, message))
            return
        refused = RefusedError(code, message)
        if advice := reply.get("advice"):
            refused.add_note(str(advice))
        if code in _RETRYABLE:
            raise DaemonLeftError(refused)
        raise refused


def replies(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole lines out of `buffer`; an unfinished one stays."""
    while (end := buffer.find(b"\n")) >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        yield line
