"""The one writer: a thread with a connection of its own that commits whatever waits, together.

Events wait in a queue bounded in rows and bytes. The thread takes what is there, commits once, and
tells all callers at once. Other writers of this process borrow the thread's turn, so that nobody
polls for the database's lock while events stream in. A batch that fails fails its callers; the thread
goes on. A thread that ends fails everybody who waits and everybody who comes later: silence would
hang every client.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from honed import log
from honed.errors import HonedError, StoreError
from honed.ports import Disposition, FilePosition, IncomingEvent
from honed.stores.grouping import Written

TURN_MAX_S: Final = 60.0
"""How long the thread waits for a borrowed turn; then the database's own lock decides."""


class Writing(Protocol):
    """The writer's connection; used in its thread alone."""

    def ready(self) -> None:
        """Return when the database can be written; raises StoreError when it cannot, TakenOverError for ever."""

    def commit(self, events: Sequence[IncomingEvent], positions: Sequence[FilePosition]) -> Written:
        """One transaction: all of it, or an exception and nothing.

        Raises:
            StoreError: the database is away, whatever the events are.
            TakenOverError: nothing may be written any more.
            Exception: it refuses these events.
        """

    def advice(self, failure: Exception) -> str | None:
        """What to do about events that were refused."""

    def close(self) -> None:
        """Close the connection."""


class TakenOverError(HonedError):
    """Another daemon writes into the store now: this one must end."""


class _Append(NamedTuple):
    """Events of one caller, committed together."""

    events: Sequence[IncomingEvent]
    position: FilePosition | None
    size_bytes: int
    done: asyncio.Future[Written]


class _Turn(NamedTuple):
    """A request to leave the database alone for the length of one foreign transaction."""

    granted: asyncio.Future[None]
    over: threading.Event


class _End:
    """A request to commit what was queued before, and then to end."""


_Request = _Append | _Turn | _End
_Result = Written | StoreError


class Writer:
    """Group commit for `append`, and turns for the other writers; belongs to one event loop."""

    def __init__(
        self,
        connect: Callable[[], Writing],
        *,
        queue_size: int,
        queue_bytes: int,
        batch_max: int,
    ) -> None:
        self._connect = connect
        self._queue_size = queue_size
        self._queue_bytes = queue_bytes
        self._batch_max = batch_max
        self._waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._num_rows = 0
        self._num_bytes = 0
        self._no_room: list[asyncio.Future[None]] = []
        self._in_hand: list[_Request] = []
        """What the thread has taken from the queue and not answered; the thread's own."""
        self._ended: str | None = None
        """Why nothing is written any more."""
        self._has_ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread

    @property
    def depth(self) -> int:
        """Events that wait for their commit."""
        return self._num_rows

    async def start(self) -> None:
        """Open the connection in the thread; raises StoreError when that fails."""
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread: a loop that died without `close` must not keep the process alive.
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="honed-writer", daemon=True
        )
        self._thread.start()
        await ready

    async def close(self) -> None:
        """Commit what waits and end the thread."""
        self._waiting.put(_End())
        await asyncio.to_thread(self._thread.join, 2 * TURN_MAX_S)

    async def append(
        self, events: Sequence[IncomingEvent], *, position: FilePosition | None = None
    ) -> Written:
        """Queue events, at most a commit's worth at a time, and wait for their commits.

        Those that come with a file's position are committed at once with it, however many they are.

        Raises:
            StoreError: not all were committed.
        """
        if position is not None or len(events) <= self._batch_max:
            return await (await self._enqueue(events, position))
        parts = [
            await self._enqueue(events[start : start + self._batch_max])
            for start in range(0, len(events), self._batch_max)
        ]
        written = await asyncio.gather(*parts)
        dispositions: list[Disposition] = []
        for part in written:
            dispositions += part.dispositions
        return Written(dispositions, any(part.found_closed for part in written))

    async def watch(self) -> None:
        """Wait until the thread has ended; raises StoreError with the reason."""
        await self._has_ended.wait()
        raise StoreError(self._ended or "the store is closed")

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Keep the thread from writing while the caller does; waits for what was queued before.

        Raises:
            StoreError: the thread has ended.
        """
        if self._ended is not None:
            raise StoreError(self._ended)
        turn = _Turn(self._loop.create_future(), threading.Event())
        self._waiting.put(turn)
        try:
            await turn.granted
            yield
        finally:
            turn.over.set()

    async def _enqueue(
        self, events: Sequence[IncomingEvent], position: FilePosition | None = None
    ) -> asyncio.Future[Written]:
        size = sum(len(event.body) for event in events)
        while self._is_full(len(events), size):
            room: asyncio.Future[None] = self._loop.create_future()
            self._no_room.append(room)
            await room
        if self._ended is not None:
            raise StoreError(self._ended)
        done: asyncio.Future[Written] = self._loop.create_future()
        self._num_rows += len(events)
        self._num_bytes += size
        self._waiting.put(_Append(events, position, size, done))
        return done

    def _is_full(self, rows: int, size: int) -> bool:
        """Whether the caller must wait; an empty queue takes anything, however large."""
        if self._ended is not None or self._num_rows == 0:
            return False
        return (
            self._num_rows + rows > self._queue_size or self._num_bytes + size > self._queue_bytes
        )

    def _settle(self, results: list[tuple[_Append, _Result]]) -> None:
        """Tell the callers what became of their events and let others in; on the loop."""
        for append, result in results:
            self._num_rows -= len(append.events)
            self._num_bytes -= append.size_bytes
            if append.done.done():  # the caller was cancelled
                continue
            if isinstance(result, StoreError):
                append.done.set_exception(result)
            else:
                append.done.set_result(result)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        waiters, self._no_room = self._no_room, []
        for room in waiters:
            if not room.done():
                room.set_result(None)

    def _refuse_rest(self, reason: str, in_hand: list[_Request]) -> None:
        """Fail everybody who waits, and from now on everybody who comes; on the loop."""
        self._ended = reason
        self._has_ended.set()
        rest: list[tuple[_Append, _Result]] = []
        while not self._waiting.empty():
            in_hand.append(self._waiting.get_nowait())
        for request in in_hand:
            if isinstance(request, _Append):
                rest.append((request, StoreError(reason)))
            elif isinstance(request, _Turn) and not request.granted.done():
                request.granted.set_exception(StoreError(reason))
        self._settle(rest)

    # ------------------------------------------------------------ in the thread

    def _run(self, ready: asyncio.Future[None]) -> None:
        reason = "the store is closed"
        try:
            db = self._connect()
        except Exception as failure:
            if not isinstance(failure, HonedError):
                reason = f"the store's writer cannot open the database: {failure}"
                failure = StoreError(reason)
            self._tell(ready.set_exception, failure)
            return
        try:
            self._tell(ready.set_result, None)
            self._serve(db)
        except BaseException as failure:  # told to every caller, which is more than a traceback
            reason = f"the store's writer has ended: {type(failure).__name__}: {failure}"
            log.get().error(log.BATCH_FAILED, error=reason)
        finally:
            self._tell(self._refuse_rest, reason, self._in_hand)
            db.close()

    def _serve(self, db: Writing) -> None:
        held: _Request | None = None  # taken from the queue, not served yet
        while True:
            request = held or self._waiting.get()
            held = None
            match request:
                case _Append():
                    batch, held = self._take(request)
                    self._in_hand = [*batch, held] if held else list(batch)
                    self._tell(self._settle, self._commit(db, batch))
                    self._in_hand = [held] if held else []
                case _Turn():
                    self._in_hand = [request]
                    self._lend(db, request)
                    self._in_hand = []
                case _End():
                    return

    def _take(self, first: _Append) -> tuple[list[_Append], _Request | None]:
        """Whatever waits, up to a commit's worth, and the request that did not fit."""
        batch, rows = [first], len(first.events)
        while rows < self._batch_max:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                break
            if not isinstance(request, _Append) or rows + len(request.events) > self._batch_max:
                return batch, request
            batch.append(request)
            rows += len(request.events)
        return batch, None

    def _lend(self, db: Writing, turn: _Turn) -> None:
        try:
            db.ready()
        except StoreError as failure:
            self._tell(_refuse, turn, failure)
            return
        self._tell(_grant, turn)
        turn.over.wait(TURN_MAX_S)

    def _commit(self, db: Writing, batch: list[_Append]) -> list[tuple[_Append, _Result]]:
        try:
            written = db.commit(
                [event for append in batch for event in append.events],
                [append.position for append in batch if append.position is not None],
            )
        except TakenOverError:
            raise
        except StoreError as failure:
            return [(append, failure) for append in batch]
        except Exception as failure:  # one caller's fault ends neither the thread nor the others
            if len(batch) > 1:
                return [result for append in batch for result in self._commit(db, [append])]
            return [(batch[0], _refused(failure, db.advice(failure)))]
        results: list[tuple[_Append, _Result]] = []
        start = 0
        for append in batch:
            end = start + len(append.events)
            results.append((append, Written(written.dispositions[start:end], written.found_closed)))
            start = end
        return results

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, *arguments)


def _grant(turn: _Turn) -> None:
    if not turn.granted.done():
        turn.granted.set_result(None)


def _refuse(turn: _Turn, failure: StoreError) -> None:
    if not turn.granted.done():
        turn.granted.set_exception(failure)


def _refused(failure: Exception, advice: str | None) -> StoreError:
    message = f"events could not be committed: {type(failure).__name__}: {failure}"
    error = StoreError(message, advice=advice)
    error.__cause__ = failure
    return error
