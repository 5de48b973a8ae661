"""What can go wrong between a client and the daemon.

FeedError
  ConnectionLostError   nobody answers at the socket, also at the second try
  RefusedError          the daemon ended the conversation and says why
  RejectedError         some events are malformed or conflict; the others are on disk
"""

import errno
from collections.abc import Sequence
from typing import NamedTuple

_START = "start the daemon: `honed up`, or `honed run` without a gateway"
_SLOW = "the daemon takes longer than timeout_s: `honed status` tells how it is"
_ADVICE = {
    errno.ENOENT: f"{_START}; or is data_dir another one? `honed config show` tells it, the socket is feed.sock in it",
    errno.EACCES: "the socket belongs to another user, or its folder does: send as the user that the daemon runs as",
}


class FeedError(Exception):
    """Root of the client's errors."""


class ConnectionLostError(FeedError):
    """The daemon cannot be reached, or went away before it acknowledged."""

    @classmethod
    def of(cls, path: str, error: OSError) -> "ConnectionLostError":
        """What the socket at `path` ended with, and, as a note, what to do."""
        lost = cls(f"no answer from {path}: {error.strerror or error or type(error).__name__}")
        lost.add_note(
            _SLOW if isinstance(error, TimeoutError) else _ADVICE.get(error.errno or 0, _START)
        )
        return lost


class RefusedError(FeedError):
    """The daemon ended the conversation: protocol, line too long, or it cannot store."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        """`protocol`, `too_long`, `store`, `draining` or `busy`."""


class RejectedEvent(NamedTuple):
    """One event that was not stored, and why."""

    position: int
    """Which of the events that were handed to `send`, counted from 0."""
    code: str
    """`invalid`, or `conflict`: the id is known with other content."""
    path: str
    """The field, for example `$.result.success`."""
    message: str


class RejectedError(FeedError):
    """Some events were not stored; all the others were."""

    def __init__(self, events: Sequence[RejectedEvent], *, stored: int, duplicates: int) -> None:
        first = events[0]
        more = f" (and {len(events) - 1} more)" if len(events) > 1 else ""
        super().__init__(f"event {first.position} was rejected: {first.message}{more}")
        self.events = tuple(events)
        self.stored = stored
        """How many of the others are new."""
        self.duplicates = duplicates
        """How many of the others had been stored before."""
