"""Events from a local socket: newline-delimited JSON, acknowledged after the commit.

One ingest per chunk read: the next read waits for the commit, so a slow disk slows the sender down
and memory stays flat. Connections run shielded: when the daemon stops, each one finishes the chunk
it has read, sends its ack and says that it drains.
"""

import contextlib
import os
import resource
import socket as sockets
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus

from honed import log
from honed.listen import claim_unix_path
from honed.ports import DataSink
from honed.sources.feed import Feed, Reply, busy

READ_SIZE: Final = 256 << 10
CONNECTIONS_MIN: Final = 64
CONNECTIONS_MAX: Final = 10_000
OWN_FILES: Final = 128
"""Open files that are left to the store, the worker and the control API."""
BUSY_LOG_S: Final = 60.0
"""Connections that were turned away are logged this often, at most."""
TURN_AWAY_TIMEOUT_S: Final = 1.0
SEND_TIMEOUT_S: Final = 30.0
"""A peer that does not read its acks for this long is cut off."""
DRAIN_TIMEOUT_S: Final = 10.0
"""What a stopping daemon gives its connections to send their last acks."""
ACCEPT_RETRY_S: Final = 0.2


class SocketSource:
    """`ports.EventSource` on an AF_UNIX stream.

    Args:
        path: the socket; at most 107 bytes. Its folder is made with mode 0700, the socket has 0600.
        sink: where the lines go.
        scenario: told in the hello.
        line_max: bytes of one line at most.
        listener: a socket that listens on `path` already and stays the supervisor's: its owner and mode decide who may
            connect, and its file is left where it is.
        connections_max: connections held at a time; further ones are told `busy` and closed. By
            default what the limit of open files allows, which is raised for it as far as it goes.
    """

    def __init__(
        self,
        path: Path,
        sink: DataSink,
        *,
        scenario: str,
        line_max: int,
        listener: sockets.socket | None = None,
        connections_max: int | None = None,
    ) -> None:
        self._path = path
        self._sink = sink
        self._scenario = scenario
        self._line_max = line_max
        self._passed = listener
        self._connections_max = connections_max
        self._num_connections = 0
        self.num_turned_away = 0
        """Connections that were one too many, since the process started."""
        self._num_told = 0
        self._tell_at = 0.0
        self._stopping = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()
        """One scope around each read that waits for a peer."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Accept events while the context is open; closing drains what was accepted.

        Raises:
            ConfigError: another daemon listens on the path.
            SourceError: the path is too long, or its folder cannot be written.
        """
        raw = self._passed or claim_unix_path(self._path)
        listener = await SocketListener.from_socket(raw)
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._serve, listener)
            log.get().info(log.SOURCE_OPENED, path=str(self._path))
            try:
                yield
            finally:
                self._stopping.set()
        log.get().info(log.SOURCE_CLOSED, path=str(self._path))

    async def _serve(
        self, listener: SocketListener, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        # Shielded, so that a cancelled daemon still sends the acks of what it commits.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as connections:
                connections.start_soon(self._accept, listener, connections)
                task_status.started()
                await self._stopping.wait()
                if self._passed is None:
                    self._path.unlink(missing_ok=True)
                connections.cancel_scope.deadline = anyio.current_time() + DRAIN_TIMEOUT_S
                for scope in list(self._waiting):
                    scope.cancel()

    async def _accept(self, listener: SocketListener, connections: TaskGroup) -> None:
        connections_max = self._connections_max or room_for_connections()
        async with listener:
            with self._until_stopping():
                while True:
                    try:
                        stream = await listener.accept()
                    except anyio.BrokenResourceError as error:  # no file descriptor is left
                        log.get().error(log.SOURCE_FAILED, error=repr(error.__cause__))
                        await anyio.sleep(ACCEPT_RETRY_S)
                        continue
                    if self._num_connections >= connections_max:
                        await self._turn_away(stream, connections_max)
                        continue
                    self._num_connections += 1
                    connections.start_soon(self._connection, stream)

    async def _turn_away(self, stream: SocketStream, connections_max: int) -> None:
        """Say that the daemon is busy, rather than let the peer wait in silence."""
        self.num_turned_away += 1
        if (now := anyio.current_time()) >= self._tell_at:
            num = self.num_turned_away - self._num_told
            log.get().warning(log.SOURCE_BUSY, connections_max=connections_max, num_turned_away=num)
            self._num_told, self._tell_at = self.num_turned_away, now + BUSY_LOG_S
        with (
            contextlib.suppress(anyio.BrokenResourceError),
            anyio.move_on_after(TURN_AWAY_TIMEOUT_S),
        ):
            async with stream:
                await stream.send(busy(connections_max))

    async def _connection(self, stream: SocketStream) -> None:
        try:
            async with stream:
                if self._passed is not None or _is_allowed(stream):
                    await self._converse(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError):
            pass  # the peer has gone: what it got no ack for, it sends again
        finally:
            self._num_connections -= 1

    async def _converse(self, stream: SocketStream) -> None:
        feed = Feed(self._sink, scenario=self._scenario, line_max=self._line_max)
        reply = Reply(b"")
        while not reply.ends:
            chunk: bytes | None = None
            try:
                with self._until_stopping():
                    chunk = await stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                reply = feed.end()
            else:
                reply = feed.drain() if chunk is None else await feed.receive(chunk)
            if reply.data:
                with anyio.fail_after(SEND_TIMEOUT_S):
                    await stream.send(reply.data)

    def _until_stopping(self) -> "_UntilStopping":
        return _UntilStopping(self._stopping, self._waiting)


class _UntilStopping:
    """A scope that is cancelled when the source stops, or at once when it has."""

    def __init__(self, stopping: anyio.Event, waiting: set[anyio.CancelScope]) -> None:
        self._scope = anyio.CancelScope()
        self._stopping = stopping
        self._waiting = waiting

    def __enter__(self) -> None:
        self._scope.__enter__()
        self._waiting.add(self._scope)
        if self._stopping.is_set():
            self._scope.cancel()

    def __exit__(self, *error: object) -> bool | None:
        self._waiting.discard(self._scope)
        return self._scope.__exit__(*error)  # type: ignore[arg-type]


def room_for_connections() -> int:
    """How many connections the limit of open files allows; raises the soft limit where it is short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OWN_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(CONNECTIONS_MIN, allowed - OWN_FILES)


def _is_allowed(stream: SocketStream) -> bool:
    """Whether the peer is this user or root; the socket's mode alone can be changed."""
    raw = stream.extra(SocketAttribute.raw_socket)
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack(
        "3i", raw.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, size)
    )
    return uid in (0, os.geteuid())
