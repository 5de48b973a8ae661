"""The client that never makes an agent wait: events go into memory, a thread sends them.

While the daemon is away they go to a spool on disk, in order; when it is back they are sent from
there. What cannot be kept (memory full, spool full) is dropped and counted, never waited for.
"""

import atexit
import contextlib
import os
import random
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from honed.client import events, wire
from honed.client.counts import Counts
from honed.client.exchange import WINDOW_BYTES, WINDOW_LINES
from honed.client.faults import FeedError, RefusedError, RejectedError, RejectedEvent
from honed.client.process_end import also_in_children
from honed.client.spool import Spool, SpoolFullError
from honed.client.synchronous import HonedClient
from honed.client.task import Task

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
_KEPT_REJECTIONS: Final = 20


class BackgroundClient:
    """Records events without waiting; a thread of its own sends them.

    Every method may be called from any thread, from asyncio, and after a fork: parent and child then
    have a client each. What is in memory when a process is killed is lost; what was spooled is sent
    by the next process that uses the same spool.

    Args:
        socket_path: the daemon's `feed.sock`; `~` is the home folder.
        scenario: put into events that have none.
        agent: put into events that have none.
        spool: folder for events while the daemon is away; None keeps them in memory alone. Several
            processes may share it.
        spool_max_bytes: what the folder may hold.
        queue_max_bytes: what may wait in memory.
        timeout_s: how long the thread waits for the connection and for each ack.
    """

    def __init__(
        self,
        socket_path: str | Path,
        *,
        scenario: str | None = None,
        agent: str | None = None,
        spool: str | Path | None = None,
        spool_max_bytes: int = 256 << 20,
        queue_max_bytes: int = 16 << 20,
        timeout_s: float = 10,
    ) -> None:
        self._path = socket_path
        self._scenario = scenario
        self._agent = agent
        self._spool_folder = None if spool is None else Path(spool).expanduser().absolute()
        self._spool_max_bytes = spool_max_bytes
        self._queue_max_bytes = queue_max_bytes
        self._timeout_s = timeout_s
        self.rejections: deque[RejectedEvent] = deque(maxlen=_KEPT_REJECTIONS)
        """The newest events that the daemon refused, with its reasons."""
        self._start_anew()
        _alive.add(self)
        if self._spool_folder is not None and self._spool_folder.is_dir():
            self._start_thread()  # there may be something to send already

    def _start_anew(self) -> None:
        """State of a process of its own; after a fork the parent sends what was waiting."""
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._num_busy = 0
        """Events that the thread has taken and not yet sent, spooled or dropped."""
        self._is_away = False
        """Whether the daemon did not answer the last time."""
        self.problem: str | None = None
        """Why nothing could be sent the last time; None when it could."""
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._client = HonedClient(self._path, timeout_s=self._timeout_s)
        self._spool = (
            Spool(self._spool_folder, max_bytes=self._spool_max_bytes)
            if self._spool_folder
            else None
        )
        self._spooled_bytes = 0
        self._recorded = self._sent = self._rejected = 0
        self._dropped_full = self._dropped_at_close = 0

    def __enter__(self) -> "BackgroundClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ what agents call

    def send(self, *events: dict[str, Any]) -> tuple[str, ...]:
        """Hand events over; returns their ids at once.

        Raises:
            ValueError: an event cannot be written as JSON; none was taken.
        """
        full = [wire.complete(e, scenario=self._scenario, agent=self._agent) for e in events]
        lines = [wire.encode(event) for event in full]
        with self._changed:
            for line in lines:
                self._take_in(line)
            if not self._is_closing:
                self._start_thread()
            self._changed.notify_all()
        return tuple(str(event["event_id"]) for event in full)

    def action(self, action: str, *, task_id: str, tick: int, **fields: Any) -> tuple[str, ...]:
        """Record one thing an agent did; fields as in `client.events.action_event`."""
        return self.send(events.action_event(action, task_id=task_id, tick=tick, **fields))

    def llm_call(
        self,
        messages: list[dict[str, Any]],
        response_message: dict[str, Any] | None,
        **fields: Any,
    ) -> tuple[str, ...]:
        """Record one call of a language model; fields as in `client.events.llm_call_event`."""
        return self.send(events.llm_call_event(messages, response_message, **fields))

    def outcome(self, **fields: Any) -> tuple[str, ...]:
        """Record a verdict, now or days later; rules as in `client.events.outcome_event`."""
        return self.send(events.outcome_event(**fields))

    def task(self, task_id: str | None = None, **fields: Any) -> Task[tuple[str, ...]]:
        """One attempt at a task, as a context manager; fields go into each of its events."""
        return Task(self.send, task_id, **fields)

    def flush(self, timeout_s: float = 10) -> bool:
        """Wait until everything is acknowledged, rejected or dropped; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(self._is_done, timeout_s)

    def close(self, timeout_s: float = 10) -> None:
        """Flush; what is left after `timeout_s`, or at once when the daemon is away, goes to the spool.

        Later events are dropped.
        """
        with self._changed:
            can_spool = self._spool is not None
            self._changed.wait_for(
                lambda: self._is_done() or (can_spool and self._is_away), timeout_s
            )
            self._is_closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            # The exchange in progress ends by its own limit; the spool's writes are short.
            thread.join(timeout_s + self._timeout_s)
        self._client.close()

    def counts(self) -> Counts:
        """What became of the events so far."""
        with self._changed:
            return Counts(
                self._recorded,
                self._sent,
                self._rejected,
                self._dropped_full,
                self._dropped_at_close,
                len(self._queue) + self._num_busy,
                self._spooled_bytes,
            )

    def _take_in(self, line: bytes) -> None:
        self._recorded += 1
        if self._is_closing:
            self._dropped_at_close += 1
        elif len(line) > wire.LINE_MAX + 1:
            self._refuse(line)
        elif self._queue_bytes + len(line) > self._queue_max_bytes:
            self._dropped_full += 1
        else:
            self._queue.append(line)
            self._queue_bytes += len(line)

    def _refuse(self, line: bytes) -> None:
        message = f"the event has {len(line) - 1} bytes, more than a line may have"
        self.rejections.append(RejectedEvent(0, "too_long", "$", message))
        self._rejected += 1

    def _start_thread(self) -> None:
        if self._thread is None:
            also_in_children(_at_exit)
            self._thread = threading.Thread(target=self._run, name="honed-client", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        retry_s = 0.0
        self._look()
        while (lines := self._next(retry_s)) is not None:
            was_away, self._is_away = self._is_away, not self._pass_on(lines)
            retry_s = _next_retry(retry_s) if self._is_away else 0.0
            if was_away and not self._is_away:
                self._look()  # others may have died while the daemon was away
            self._done()
        self._keep_all()

    def _look(self) -> None:
        """Take over what processes that have died left in the spool."""
        if self._spool is not None:
            self._spool.look()

    def _next(self, retry_s: float) -> list[bytes] | None:
        """The next lines, at once or when there are some; None when the client is closing.

        While the daemon is away it waits `retry_s` first, so that what is recorded meanwhile goes to
        the spool together.
        """
        with self._changed:
            self._note_spool()
            if retry_s:
                self._changed.wait_for(
                    lambda: self._is_closing or self._queue_bytes > self._queue_max_bytes // 2,
                    retry_s,
                )
            else:
                self._changed.wait_for(
                    lambda: self._queue or self._spooled_bytes or self._is_closing
                )
            if self._is_closing:
                return None
            return self._take()

    def _take(self) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        while self._queue and len(lines) < WINDOW_LINES and size < WINDOW_BYTES:
            lines.append(self._queue.popleft())
            size += len(lines[-1])
        self._queue_bytes -= size
        self._num_busy = len(lines)
        return lines

    def _pass_on(self, lines: list[bytes]) -> bool:
        """Send lines behind everything that is spooled; whether the daemon took it all."""
        if self._spool is not None and not self._spool.is_empty:
            self._keep(lines)
            self._empty_memory()
            return self._send_spooled()
        if self._is_sent(lines):
            return True
        self._keep(lines)
        return False

    def _send_spooled(self) -> bool:
        assert self._spool is not None
        while lines := self._spool.oldest():
            for start in range(0, len(lines), WINDOW_LINES):
                if self._is_closing or not self._is_sent(lines[start : start + WINDOW_LINES]):
                    return False
            self._spool.drop_oldest()
            self._empty_memory()
        return True

    def _empty_memory(self) -> None:
        """What agents have recorded meanwhile goes behind what is spooled, as far as there is room."""
        while True:
            with self._changed:
                lines = self._take()
            if not lines or not self._keep(lines):
                return

    def _is_sent(self, lines: list[bytes]) -> bool:
        if not lines:
            return True
        try:
            sent = self._client.send_lines([line[:-1] for line in lines])
            num_sent = sent.stored + sent.duplicates
        except RejectedError as error:
            self.rejections.extend(error.events)
            num_sent = error.stored + error.duplicates
            with self._changed:
                self._rejected += len(error.events)
        except RefusedError as error:
            if error.code != "too_long":
                self.problem = str(error)
                return False
            if len(lines) > 1:  # nothing was sent: find out which
                return all(self._is_sent([line]) for line in lines)
            with self._changed:
                self._refuse(lines[0])
            num_sent = 0
        except (FeedError, OSError) as error:
            self.problem = str(error)
            return False
        self.problem = None
        with self._changed:
            self._sent += num_sent
        return True

    def _keep(self, lines: list[bytes]) -> bool:
        """To the spool; where there is none, or no room in it, back to the head of the queue."""
        if self._is_spooled(lines):
            with self._changed:
                self._num_busy = 0
            return True
        with self._changed:
            self._queue.extendleft(reversed(lines))
            self._queue_bytes += sum(map(len, lines))
            self._num_busy = 0
        return False

    def _is_spooled(self, lines: list[bytes]) -> bool:
        if not lines:
            return True
        if self._spool is None:
            return False
        try:
            self._spool.append(lines)
        except SpoolFullError:
            return False
        return True

    def _keep_all(self) -> None:
        """At the end: what is still in memory."""
        with self._changed:
            left = list(self._queue)
            self._queue.clear()
            self._queue_bytes = 0
        if left and not self._is_spooled(left):
            with self._changed:
                self._dropped_at_close += len(left)
        self._done()
        if self._spool is not None:
            self._spool.close()

    def _done(self) -> None:
        """Tell those who wait that something has moved."""
        with self._changed:
            self._num_busy = 0
            self._note_spool()
            self._changed.notify_all()

    def _note_spool(self) -> None:
        if self._spool is not None:
            self._spooled_bytes = self._spool.size

    def _is_done(self) -> bool:
        return not self._queue and not self._num_busy and not self._spooled_bytes


def _next_retry(retry_s: float) -> float:
    """Doubling, with jitter: a swarm must not come back all at once."""
    longer = min(_LAST_RETRY_S, max(_FIRST_RETRY_S, retry_s * 2))
    return longer * random.uniform(0.75, 1.0)


_alive: "weakref.WeakSet[BackgroundClient]" = weakref.WeakSet()


def _in_child() -> None:
    """After a fork: no thread, no connection, no lock and no waiting event of the parent's."""
    for client in list(_alive):
        _forget(client)


def _forget(client: BackgroundClient) -> None:
    was_closing = client._is_closing
    old_spool = client._spool
    client._start_anew()
    client._is_closing = was_closing
    if old_spool is not None:
        with contextlib.suppress(OSError):
            old_spool.close()


def _at_exit() -> None:
    deadline = time.monotonic() + 5
    for client in list(_alive):
        with contextlib.suppress(Exception):  # an interpreter that ends must end
            client.close(max(0.0, deadline - time.monotonic()))


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
