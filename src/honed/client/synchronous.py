"""The client for threads."""

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from honed.client import events, wire
from honed.client.exchange import DaemonLeftError, Exchange, Sent, replies
from honed.client.faults import ConnectionLostError, RefusedError
from honed.client.task import Task


class HonedClient:
    """Sends events to a daemon's feed socket; a call returns when they are on disk.

    Threads may share it; their sends go one after another. After a fork the child has a connection
    of its own.

    Args:
        socket_path: the daemon's `feed.sock`; `~` is the home folder.
        scenario: put into events that have none.
        agent: put into events that have none.
        timeout_s: how long to wait for the connection and for each ack.
    """

    def __init__(
        self,
        socket_path: str | Path,
        *,
        scenario: str | None = None,
        agent: str | None = None,
        timeout_s: float = 10,
    ) -> None:
        self._path = str(Path(socket_path).expanduser())
        self._scenario = scenario
        self._agent = agent
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._num_lines = 0
        self._line_max = wire.LINE_MAX
        _alive.add(self)

    def __enter__(self) -> "HonedClient":
        with self._lock:
            try:
                self._retried(self._connect)
            except BaseException:
                self._disconnect()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next `send` makes a new one."""
        with self._lock:
            self._disconnect()

    def send(self, *events: dict[str, Any]) -> Sent:
        """Send events; returns when all of them are on disk.

        Raises:
            RejectedError: some events were not stored; the others are on disk.
            ConnectionLostError: the daemon is away, also at the second try.
            RefusedError: the daemon ended the conversation.
            TypeError: an event is no dictionary.
            ValueError: an event cannot be written as JSON.
        """
        full = [wire.complete(e, scenario=self._scenario, agent=self._agent) for e in events]
        return self._exchanged(
            Exchange([wire.encode(e) for e in full], [str(e["event_id"]) for e in full])
        )

    def send_lines(self, lines: Sequence[bytes]) -> Sent:
        """Send events that are written already, one JSON object each, byte for byte and without newlines.

        Nothing is filled in, so that sending the same line again is a repeat. `event_ids` of the answer is empty.
        Raises as `send`.
        """
        sent = self._exchanged(Exchange([line + b"\n" for line in lines], [""] * len(lines)))
        return sent._replace(event_ids=())

    def _exchanged(self, exchange: Exchange) -> Sent:
        with self._lock:
            try:
                self._retried(lambda: self._converse(exchange))
            except BaseException:
                # An exchange that was cut off leaves replies behind that the next one must not
                # read.
                self._disconnect()
                raise
        return exchange.result()

    def action(self, action: str, *, task_id: str, tick: int, **fields: Any) -> Sent:
        """Send one thing an agent did; fields as in `client.events.action_event`."""
        return self.send(events.action_event(action, task_id=task_id, tick=tick, **fields))

    def llm_call(
        self,
        messages: list[dict[str, Any]],
        response_message: dict[str, Any] | None,
        **fields: Any,
    ) -> Sent:
        """Send one call of a language model; fields as in `client.events.llm_call_event`."""
        return self.send(events.llm_call_event(messages, response_message, **fields))

    def outcome(
        self,
        *,
        task_id: str | None = None,
        success: bool | None = None,
        score: float | None = None,
        reason: str | None = None,
        receipt_id: str | None = None,
        group_id: str | None = None,
        episode_id: str | None = None,
        **fields: Any,
    ) -> Sent:
        """Send a verdict, now or days later; rules as in `client.events.outcome_event`."""
        said = events.outcome_event(
            task_id=task_id,
            success=success,
            score=score,
            reason=reason,
            receipt_id=receipt_id,
            group_id=group_id,
            episode_id=episode_id,
            **fields,
        )
        return self.send(said)

    def task(self, task_id: str | None = None, **fields: Any) -> Task[Sent]:
        """One attempt at a task, as a context manager; fields go into each of its events."""
        return Task(self.send, task_id, **fields)

    def _converse(self, exchange: Exchange) -> None:
        sock = self._socket or self._connect()
        exchange.check(self._line_max)
        while not exchange.is_done:
            lines = exchange.window(self._num_lines)
            self._num_lines += len(lines)
            # Reading on after a broken pipe: the daemon may have said why before it closed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(b"".join(lines))
            while not exchange.is_window_done:
                exchange.take(self._read(sock))

    def _retried(self, step: Any) -> None:
        """Do it, and once more on a new connection when the daemon went away."""
        try:
            try:
                step()
            except (OSError, DaemonLeftError):
                self._disconnect()
                step()
        except DaemonLeftError as left:
            raise left.refused from None
        except OSError as error:
            raise ConnectionLostError.of(self._path, error) from error

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self._timeout_s)
        self._socket = sock
        self._buffer.clear()
        self._num_lines = 0
        sock.connect(self._path)
        sock.sendall(wire.hello())
        reply = self._read(sock)
        if reply.get("type") == "error":
            Exchange([], []).take(reply)
        if reply.get("type") != "hello":
            raise RefusedError("protocol", f"{self._path} is not a honed feed")
        self._line_max = int(reply.get("line_max", wire.LINE_MAX))
        return sock

    def _read(self, sock: socket.socket) -> dict[str, Any]:
        while True:
            for line in replies(self._buffer):
                return wire.decode(line)
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionResetError("the daemon closed the connection")
            self._buffer += data

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _after_fork(self) -> None:
        """In the child: the connection is the parent's, and a thread that is gone may hold the lock."""
        self._lock = threading.Lock()
        self._disconnect()


_alive: "weakref.WeakSet[HonedClient]" = weakref.WeakSet()


def _in_child() -> None:
    for client in list(_alive):
        client._after_fork()


os.register_at_fork(after_in_child=_in_child)
