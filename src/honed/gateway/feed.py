"""Sends captured calls to a daemon's feed and keeps them until they are acknowledged.

While the daemon takes them, calls go from the queue to the feed, through memory. While it is away, or
too slow for what comes, they go to disk, and from there to the feed when it is back; what comes
meanwhile goes to disk behind them, so their order holds. Whatever was not acknowledged is sent again
over the next connection; the daemon stores an event once (`event_id`, the receipt).
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
from anyio import to_thread

from honed import log
from honed.gateway.capture import Call, Captured
from honed.gateway.feed_link import FeedLink, FeedLostError, open_feed
from honed.gateway.merge import UnreadableError
from honed.gateway.shelf import SYNC_S, Shelf

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
_WINDOW: Final = 256
_WINDOW_BYTES: Final = 8 << 20
_INLINE_BYTES: Final = 64 << 10
_LATE_S: Final = 2.0
"""A feed that acknowledges nothing for so long is taken for one that is away: calls go to disk."""
_FULL_S: Final = 1.0
"""Between two tries of a disk that has no room."""
_LAST_S: Final = 2.0
"""How long the gateway's end may take to put to disk what is in memory."""


class _FromDisk:
    """What became of the lines of one file from disk, which go over a connection before all others."""

    def __init__(self) -> None:
        self.num_open = self.num_stored = self.num_refused = 0

    def settle(self, is_stored: bool) -> None:
        """The next one is done with."""
        self.num_open -= 1
        self.num_stored += is_stored
        self.num_refused += not is_stored


class FeedSender:
    """One scenario's way to its daemon."""

    def __init__(
        self,
        captured: Captured,
        feed_socket: Callable[[], Path | None],
        shelf: Shelf | None = None,
    ) -> None:
        """Without a shelf, calls wait in memory alone."""
        self._captured = captured
        self._feed_socket = feed_socket
        self._shelf = shelf
        self._window: deque[bytes] = deque()
        """Lines in memory that were taken from the queue, oldest first: sent, or about to be."""
        self._window_bytes = 0
        self._from_disk = _FromDisk()
        self._has_room = anyio.Event()
        self._line_max = 1 << 20
        self._last_reason: str | None = None

    async def run(self) -> None:
        """Send until cancelled; then what is in memory goes to disk."""
        try:
            if self._shelf is not None:
                await self._shelf.look()
                self._note_shelf()
            await self._send()
        finally:
            if self._shelf is not None:
                with anyio.move_on_after(_LAST_S, shield=True):
                    while not self._captured.is_kept and await self._store():
                        pass
                    await self._shelf.close()

    async def _send(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            done = self._num_done
            try:
                if self._has_nothing:
                    await self._captured.wait_for_call()
                await self._send_over_one_connection()
            except* (OSError, FeedLostError, TimeoutError) as group:
                self._say_once(_reason(group))
            retry_s = _FIRST_RETRY_S if self._num_done > done else min(_LAST_RETRY_S, retry_s * 2)
            with anyio.move_on_after(retry_s):
                async with self._storing():
                    await self._captured.wait_wanted()

    @property
    def _num_done(self) -> int:
        return self._captured.sent + self._captured.refused

    @property
    def _has_nothing(self) -> bool:
        return not self._window and (self._shelf is None or self._shelf.is_empty)

    @property
    def _is_full(self) -> bool:
        return len(self._window) >= _WINDOW or self._window_bytes >= _WINDOW_BYTES

    def _say_once(self, reason: str) -> None:
        """Log why the feed is away; a daemon that stays away is not logged at every try."""
        if reason != self._last_reason:
            self._last_reason = reason
            log.get(scenario=self._captured.scenario).info(log.FEED_LOST, reason=reason)

    # ------------------------------------------------------------ from the queue into memory

    async def _fill(self) -> bool:
        """Put the next call into the window; False when it cannot be told as an event."""
        call = await self._captured.take()
        self._captured.move(in_memory=1)
        try:
            line = await _line(call)
        except UnreadableError as error:
            self._captured.move(in_memory=-1)
            self._captured.skipped += 1
            self._captured.num_gone += 1
            log.get(scenario=self._captured.scenario).debug(log.CAPTURE_SKIPPED, reason=str(error))
            return False
        self._window.append(line)
        self._window_bytes += len(line)
        return True

    def _forget(self, line: bytes, *, is_gone: bool = True) -> None:
        """A line that has left the window: for good, or to the disk."""
        self._window_bytes -= len(line)
        self._captured.num_gone += is_gone
        self._captured.move(in_memory=-1)

    # ------------------------------------------------------------ from memory to disk

    async def _keep_storing(self) -> None:
        """Put to disk what is in memory and what comes, for ever."""
        if self._shelf is None:
            await anyio.sleep_forever()
            return
        while True:
            if not self._window:
                with anyio.move_on_after(None if self._shelf.is_synced else SYNC_S):
                    await self._captured.wait_for_call()
            with anyio.CancelScope(shield=True):
                has_room = await self._store()
            if not has_room:
                await anyio.sleep(_FULL_S)

    @asynccontextmanager
    async def _storing(self, after_s: float = 0) -> AsyncIterator[None]:
        """Put to disk what comes in the meantime, once this has taken `after_s`."""

        async def store() -> None:
            await anyio.sleep(after_s)
            await self._keep_storing()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store)
            yield
            tasks.cancel_scope.cancel()

    async def _store(self) -> bool:
        """Put to disk what fits into one window; whether there was room."""
        assert self._shelf is not None
        while self._captured.has_calls and not self._is_full:
            await self._fill()
            await anyio.lowlevel.checkpoint()
        if not self._window:
            await self._shelf.sync()
            return True
        num = len(self._window)
        if not await self._shelf.put(list(self._window)):
            self._note_shelf()
            return False
        for _ in range(num):
            self._forget(self._window.popleft(), is_gone=False)
        self._note_shelf()
        return True

    def _note_shelf(self) -> None:
        assert self._shelf is not None
        self._captured.damaged = self._shelf.num_broken
        self._captured.spooled = self._shelf.num_lines
        self._captured.spooled_bytes = self._shelf.size
        self._captured.spooled_since_ms = self._shelf.since_ms or 0
        self._captured.is_spool_failing = self._shelf.is_failing
        self._captured.move()

    # ------------------------------------------------------------ to the daemon

    async def _send_over_one_connection(self) -> None:
        path = self._feed_socket()
        if path is None:
            raise FeedLostError("no feed is registered")
        with ExitStack() as stack:
            async with self._storing(after_s=_LATE_S):
                link = await open_feed(path, scenario=self._captured.scenario)
                stack.callback(link.close)
            self._line_max = link.line_max
            self._from_disk = _FromDisk()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hear, link)
                await self._send_stored(link)
                if self._shelf is not None:
                    tasks.start_soon(self._watch)
                await self._send_fresh(link)

    async def _hear(self, link: FeedLink) -> None:
        """Take in what became of the lines that were sent: first those from disk, then the window's."""
        async for is_stored in link.verdicts():
            if self._from_disk.num_open:
                self._from_disk.settle(is_stored)
            elif not self._window:
                raise FeedLostError("the feed acknowledged more lines than were sent")
            else:
                self._forget(self._window.popleft())
                self._count(num_stored=is_stored, num_refused=not is_stored)
            self._has_room.set()

    def _count(self, *, num_stored: int, num_refused: int) -> None:
        self._captured.sent += num_stored
        self._captured.refused += num_refused

    async def _send_stored(self, link: FeedLink) -> None:
        """Send what is on disk; until nothing is left there, what comes goes to disk behind it."""
        while self._shelf is not None and not self._shelf.is_empty:
            async with self._storing():
                while lines := await self._shelf.oldest():
                    await self._send_lines(link, lines)
                    # Not before: what is sent again, because the connection was lost, counts once.
                    sent, self._from_disk = self._from_disk, _FromDisk()
                    self._count(num_stored=sent.num_stored, num_refused=sent.num_refused)
                    self._captured.num_gone += len(lines)
                    await self._shelf.drop_oldest()
                    self._note_shelf()
            self._note_shelf()

    async def _send_lines(self, link: FeedLink, lines: list[bytes]) -> None:
        """Send lines from disk and wait until the daemon has them."""
        for line in lines:
            if self._fits(line):
                self._from_disk.num_open += 1
                link.write(line)
                await link.drain()
        while self._from_disk.num_open:
            await self._wait_for_room()

    async def _send_fresh(self, link: FeedLink) -> None:
        """Send what is in memory and what comes, for ever."""
        for line in [each for each in self._window if not self._fits(each)]:
            self._window.remove(line)
            self._forget(line)
        for line in list(self._window):
            link.write(line)
        while True:
            await link.drain()
            while self._is_full:
                await self._wait_for_room()
            if not await self._fill():
                continue
            if self._fits(self._window[-1]):
                link.write(self._window[-1])
            else:
                self._forget(self._window.pop())

    async def _watch(self) -> None:
        """Call the feed lost when it cannot keep up: memory is not for that."""
        while True:
            done, waited = self._num_done, bool(self._window)
            await anyio.sleep(_LATE_S)
            if waited and self._num_done == done:
                raise FeedLostError(f"nothing was acknowledged for {_LATE_S:g} s")
            if self._captured.is_behind:
                raise FeedLostError("calls come faster than they are acknowledged")

    async def _wait_for_room(self) -> None:
        self._has_room = anyio.Event()
        await self._has_room.wait()

    def _fits(self, line: bytes) -> bool:
        """Whether the daemon takes so long a line; one that it does not is dropped."""
        if len(line) <= self._line_max:
            return True
        self._captured.drop(f"the event is longer than {self._line_max} bytes")
        return False


async def _line(call: Call) -> bytes:
    if call.size_bytes <= _INLINE_BYTES:
        return call.event() + b"\n"
    # Merging a long stream takes milliseconds, which the other streams would feel. Cancelled half-way (the connection
    # was lost), the call would be in neither queue nor window.
    with anyio.CancelScope(shield=True):
        event = await to_thread.run_sync(call.event)
    return event + b"\n"


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return f"{type(first).__name__}: {first}"
