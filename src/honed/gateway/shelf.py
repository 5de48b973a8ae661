"""Events of one scenario that wait on disk while its daemon is away, in files of the gateway's folder.

The files are those of `honed.client.spool`: whole segments are deleted when all of a segment has been
acknowledged, what is sent twice after a crash the daemon knows by its id. What they hold is not redacted: kinds and
secret are each daemon's own, and an event that went raw to the daemon before it came here would be another one under
the same id, which is refused. So only the gateway's user can read them. All disk work happens in a
thread, one piece at a time, so a slow disk delays nobody but what waits for it.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread

from honed import log
from honed.client.spool import Spool, SpoolFullError
from honed.domain.events import parse_event
from honed.errors import ValidationError

SYNC_S: Final = 1.0
"""How long what is written may wait until it is on disk. A gateway that is killed loses nothing of it,
a machine that goes down what came in this time.
"""

T = TypeVar("T")


def shelf_for(folder: Path, scenario: str, *, max_bytes: int) -> "Shelf | None":
    """The shelf of a scenario in the gateway's folder; None when nothing may lie on it."""
    if not max_bytes:
        return None
    return Shelf(folder / "spool" / scenario, scenario=scenario, max_bytes=max_bytes)


class Shelf:
    """Keeps lines on disk, hands them back in order."""

    def __init__(self, folder: Path, *, scenario: str, max_bytes: int) -> None:
        self._folder = folder
        self._spool = Spool(folder, max_bytes=max_bytes)
        self._scenario = scenario
        self._limiter = CapacityLimiter(1)
        self._synced_s = -SYNC_S
        self._is_synced = True
        self._problem: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return self._spool.is_empty

    @property
    def is_synced(self) -> bool:
        """Whether everything is on disk, whatever becomes of the machine."""
        return self._is_synced

    @property
    def num_lines(self) -> int:
        """Events that wait here."""
        return self._spool.num_lines

    @property
    def size(self) -> int:
        """Bytes that wait here."""
        return self._spool.size

    @property
    def since_ms(self) -> int | None:
        """When the oldest of what waits here began to, Unix milliseconds; None where nothing waits."""
        since_ns = self._spool.since_ns
        return None if since_ns is None else since_ns // 1_000_000

    @property
    def is_failing(self) -> bool:
        """Whether it takes no more, for want of room or because of its disk."""
        return self._problem is not None

    @property
    def num_broken(self) -> int:
        """Pieces that are no events any more and were set aside."""
        return self._spool.num_broken

    async def look(self) -> None:
        """Take over what a gateway that has ended left here."""
        try:
            await self._in_thread(self._see_that_it_is_private)
            await self._in_thread(self._spool.look)
        except OSError as error:
            self._fail(str(error))
        self._tell_broken(0)
        if not self.is_empty:
            log.get(scenario=self._scenario).info(log.CAPTURE_SPOOLED, events=self.num_lines)

    async def put(self, lines: list[bytes]) -> bool:
        """Keep lines behind all others; False, with the reason in the log, when there is no room."""
        sync = time.monotonic() - self._synced_s >= SYNC_S
        was_empty = self.is_empty
        try:
            await self._in_thread(lambda: self._spool.append(lines, sync=sync))
        except SpoolFullError as error:
            self._fail(str(error))
            return False
        self._note_sync(sync)
        self._problem = None
        if was_empty:
            log.get(scenario=self._scenario).info(log.CAPTURE_SPOOLED, events=len(lines))
        return True

    async def sync(self) -> None:
        """Have on disk what was put here, if it is time for that."""
        if self._is_synced or time.monotonic() - self._synced_s < SYNC_S:
            return
        try:
            await self._in_thread(self._spool.sync)
        except OSError as error:
            self._fail(str(error))
        self._note_sync(True)

    async def oldest(self) -> list[bytes]:
        """The oldest lines, whole events; empty when nothing waits. What is put here from now on waits
        behind them, and `drop_oldest` ends their wait.
        """
        known = self.num_broken
        lines = await self._in_thread(self._whole_lines)
        self._tell_broken(known)
        return lines

    async def drop_oldest(self) -> None:
        """What `oldest` gave is acknowledged, all of it."""
        try:
            await self._in_thread(self._spool.drop_oldest)
        except OSError as error:  # it is sent once more by the next gateway, and known by its ids
            self._fail(str(error))
        self._problem = None  # there is room again
        if self.is_empty:
            log.get(scenario=self._scenario).info(log.CAPTURE_UNSPOOLED)

    async def close(self) -> None:
        """Let go of the files; the next gateway takes them over."""
        await self._in_thread(self._spool.close)

    def _see_that_it_is_private(self) -> None:
        """Runs in the thread. What was said waits here as it was said: whoever made the folder, only we may enter."""
        with contextlib.suppress(FileNotFoundError):
            if self._folder.stat().st_mode & 0o077:
                self._folder.chmod(0o700)

    def _whole_lines(self) -> list[bytes]:
        """Runs in the thread."""
        while lines := self._spool.oldest():
            whole = [line for line in lines if _is_event(line)]
            if len(whole) < len(lines):
                self._spool.set_apart([line for line in lines if not _is_event(line)])
            if whole:
                return whole
            self._spool.drop_oldest()
        return []

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._limiter)

    def _note_sync(self, done: bool) -> None:
        self._is_synced = done
        if done:
            self._synced_s = time.monotonic()

    def _fail(self, reason: str) -> None:
        """Log why nothing can be kept; a disk that stays full is not logged at every try."""
        if reason != self._problem:
            self._problem = reason
            log.get(scenario=self._scenario).warning(log.SPOOL_FAILED, reason=reason)

    def _tell_broken(self, known: int) -> None:
        if self.num_broken > known:
            log.get(scenario=self._scenario).error(
                log.SPOOL_DAMAGED, pieces=self.num_broken - known
            )


def _is_event(line: bytes) -> bool:
    try:
        parse_event(line)
    except ValidationError:
        return False
    return True
