"""The memory that request bodies may fill, and who gives way when it is full."""

import asyncio
import time
from typing import Final, Self

from honed.gateway.refusal import Refused

PATIENCE_S: Final = 5.0
"""How long an upload may be silent while others find no room."""


class Room:
    """The memory that request bodies share, counted as their parts arrive. When it is full, uploads
    that have stalled give way, those silent for longest first; whoever goes on sending keeps its place.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.held_bytes = 0
        self.uploads: dict[Share, float] = {}
        """Those that are not whole yet, and when their newest part came; the longest silent is the first."""

    def make(self, size_bytes: int, *, is_last: bool) -> None:
        """See that so much more fits in; raises Refused, and nobody gives way, when it cannot. The `is_last` part of
        a body leaves nothing unread.
        """
        missing = self.held_bytes + size_bytes - self._size_bytes
        latest = time.monotonic() - PATIENCE_S
        leaving: list[Share] = []
        for share, heard_s in self.uploads.items():
            if missing <= 0 or heard_s > latest:
                break
            leaving.append(share)
            missing -= share.held_bytes
        if missing > 0:
            raise no_room(closes=not is_last)
        for share in leaving:
            share.give_way()


class Share:
    """One request's part of the room, given back at the end of its `with`."""

    __slots__ = ("_limit", "_room", "has_given_way", "held_bytes")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.held_bytes = 0
        self._limit: asyncio.Timeout | None = None
        self.has_given_way = False

    def __enter__(self) -> Self:
        return self

    def take(self, size_bytes: int, *, until: asyncio.Timeout | None = None) -> None:
        """Count in; raises Refused when there is no room.

        Args:
            size_bytes: of the part that has come.
            until: ends the wait for the next part; None: there is none, the body is whole.
        """
        if self.has_given_way:
            raise no_room(closes=until is not None)
        self._room.uploads.pop(self, None)  # it has been heard: it gives no way to itself
        self._room.make(size_bytes, is_last=until is None)
        self._room.held_bytes += size_bytes
        self.held_bytes += size_bytes
        self._limit = until
        if until is not None:
            self._room.uploads[self] = time.monotonic()

    def give_way(self) -> None:
        """Leave the room to others, and end the wait for the rest."""
        self.has_given_way = True
        self._leave()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0)

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._room.uploads.pop(self, None)
        self._room.held_bytes -= self.held_bytes
        self.held_bytes = 0


def no_room(*, closes: bool = True) -> Refused:
    """What a request is told that finds no room, or has given way."""
    message = "too much is waiting in the gateway"
    return Refused(503, "busy", message, retry_after_s=1, closes=closes)
