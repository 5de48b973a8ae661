"""Events of agents in the daemon's own process: a bus that never makes them wait, and the source that empties it.

Whoever publishes does not know who listens. A listener has a queue with a limit; one that is too slow
loses its oldest events, which are counted, and costs the others nothing.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from honed import log
from honed.domain.events import Event, LearningEvent, format_event
from honed.errors import StoreError
from honed.ports import DataSink

QUEUE_SIZE: Final = 10_000
_RETRY_S: Final = 5.0


class Listener:
    """What waits for one listener of a bus; made by `EventBus.subscribe`, taken from in its event loop."""

    def __init__(self, queue_size: int) -> None:
        self._waiting: deque[Event] = deque()
        self._queue_size = queue_size
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._arrived = anyio.Event()
        self._room = anyio.Event()
        self._is_closed = False
        self.lagged = 0
        """Events that were lost because more came than the queue holds."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next event costs the oldest one."""
        return not self._is_closed and len(self._waiting) >= self._queue_size

    async def take(self, at_most: int) -> list[Event]:
        """What waits, oldest first; waits until there is something. Empty: it is closed, and all was taken."""
        while True:
            self._arrived = anyio.Event()  # before the look: `put` may come from another thread
            if self._waiting or self._is_closed:
                break
            await self._arrived.wait()
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(at_most, len(self._waiting)))]
        self._room.set()
        return taken

    async def room(self) -> None:
        """Return once the queue is not full."""
        while self.is_full:
            if self._room.is_set():  # the same one for all who wait
                self._room = anyio.Event()
            await self._room.wait()

    def put(self, events: Sequence[Event]) -> None:
        """Take events in, the oldest ones making room; from any thread, without waiting."""
        with self._lock:
            if self._is_closed:
                return
            self._waiting.extend(events)
            while len(self._waiting) > self._queue_size:
                self._waiting.popleft()
                self.lagged += 1
        self._wake()

    def close(self) -> None:
        """Take no more in; what waits can still be taken."""
        with self._lock:
            self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the listener with it
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._arrived.set()
        if not self.is_full:
            self._room.set()


class EventBus:
    """Passes events to whoever listens, from any thread.

    Args:
        name: what `honed status` calls it.
    """

    def __init__(self, name: str = "bus") -> None:
        self.name = name
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._is_closed = False

    @contextlib.contextmanager
    def subscribe(self, *, queue_size: int = QUEUE_SIZE) -> Iterator[Listener]:
        """Hear what is published while the context is open; asked for in the event loop that takes it."""
        listener = Listener(queue_size)
        with self._lock:
            self._listeners += (listener,)
            if self._is_closed:
                listener.close()
        try:
            yield listener
        finally:
            listener.close()
            with self._lock:
                self._listeners = tuple(each for each in self._listeners if each is not listener)

    def publish(self, event: Event) -> None:
        """Pass an event to all listeners; never waits, and nobody need listen."""
        self.publish_batch((event,))

    def publish_batch(self, events: Sequence[Event]) -> None:
        """Pass several at once, in their order."""
        for listener in self._listeners:
            listener.put(events)

    async def send(self, event: Event) -> None:
        """Pass an event as `publish` does, but wait until no listener loses one for it."""
        while full := [listener for listener in self._listeners if listener.is_full]:
            await full[0].room()
        self.publish(event)

    def close(self) -> None:
        """Pass nothing any more; listeners take what waits for them, and end."""
        with self._lock:
            self._is_closed = True
            for listener in self._listeners:
                listener.close()


class LearningBus(EventBus):
    """A bus for events of learning; off until `turn_on`, so that a swarm that does not learn pays nothing."""

    def __init__(self, name: str = "learning") -> None:
        super().__init__(name)
        self.is_on = False

    def turn_on(self) -> None:
        """Pass on what is emitted from now on."""
        self.is_on = True

    def emit(self, event: LearningEvent) -> None:
        """Pass an event of learning to all listeners; nothing happens while the bus is off."""
        if self.is_on:
            self.publish(event)


class BusSource:
    """`ports.EventSource` over a bus: what waits goes to the sink, in batches that are never waited for.

    Args:
        bus: what it listens to.
        sink: where the events go.
        queue_size: events that may wait.
        batch_max: events handed over at once, at most.
        batch_bytes: bytes handed over at once; a longer event goes alone.
        line_max: bytes of one event; a longer one is passed over and counted.
    """

    def __init__(
        self,
        bus: EventBus,
        sink: DataSink,
        *,
        queue_size: int = QUEUE_SIZE,
        batch_max: int = 1_000,
        batch_bytes: int = 1 << 20,
        line_max: int = 1 << 20,
    ) -> None:
        self.name = bus.name
        self._bus = bus
        self._sink = sink
        self._queue_size = queue_size
        self._batch_max = batch_max
        self._batch_bytes = batch_bytes
        self._line_max = line_max
        self._listener: Listener | None = None
        self._stopping = anyio.Event()
        self.num_rejected = 0
        """Events that were malformed, in conflict or too long."""
        self.num_lost = 0
        """Events that could not be stored when the source closed."""

    def status(self) -> dict[str, Any]:
        """For `honed status`: what waits, and counts of what could not be used."""
        listener = self._listener
        return {
            "waiting": len(listener) if listener else 0,
            "lagged": listener.lagged if listener else 0,
            "rejected": self.num_rejected,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Store what is published while the context is open; closing stores what waits."""
        self._stopping = anyio.Event()
        with self._bus.subscribe(queue_size=self._queue_size) as listener:
            self._listener = listener
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run, listener)
                log.get().info(log.SOURCE_OPENED, path=self.name)
                try:
                    yield
                finally:
                    self._stopping.set()
                    listener.close()
        log.get().info(log.SOURCE_CLOSED, path=self.name)

    async def _run(self, listener: Listener) -> None:
        # Shielded: a cancelled daemon still commits what waits.
        with anyio.CancelScope(shield=True):
            while events := await listener.take(self._batch_max):
                for batch in self._batches(events):
                    await self._hand_over(batch)

    def _batches(self, events: Sequence[Event]) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        size = 0
        for event in events:
            line = format_event(event)
            if len(line) > self._line_max:
                self._refuse(1, f"the event has {len(line)} bytes: {self._line_max} are allowed")
                continue
            if batch and size + len(line) > self._batch_bytes:
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        if batch:
            yield batch

    async def _hand_over(self, batch: list[bytes]) -> None:
        """Store a batch, again and again while the store cannot; the events that come meanwhile wait."""
        while True:
            is_last = self._stopping.is_set()
            try:
                done = await self._sink.ingest(batch)
            except StoreError as error:
                log.get().error(log.BATCH_FAILED, num_lines=len(batch), error=str(error))
                if is_last:
                    self.num_lost += len(batch)
                    return
                with anyio.move_on_after(_RETRY_S):
                    await self._stopping.wait()
                continue
            if done.rejected:
                self._refuse(len(done.rejected), done.rejected[0].message)
            return

    def _refuse(self, count: int, why: str) -> None:
        self.num_rejected += count
        log.get().warning(log.LINE_REJECTED, count=count, first=why, source=self.name)
