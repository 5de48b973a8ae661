"""Events from a local socket: newline-delimited JSON, acknowledged after the commit.

One ingest per chunk read: the next read waits for the commit, so a slow disk slows the sender down
and memory stays flat. Connections run shielded: when the daemon stops, each one finishes the chunk
it has read, sends its ack and says that it drains.
"""

import os
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
from honed.sources.feed import Feed, Reply

READ_SIZE: Final = 256 << 10
CONNECTIONS_MAX: Final = 512
"""Connections served at a time; further ones wait in the backlog."""
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
    """

    def __init__(self, path: Path, sink: DataSink, *, scenario: str, line_max: int) -> None:
        self._path = path
        self._sink = sink
        self._scenario = scenario
        self._line_max = line_max
        self._stopping = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()
        """One scope around each read that waits for a peer."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Accept events while the context is open; closing drains what was accepted.

        Raises:
            SourceError: the path is too long, or another daemon listens on it.
        """
        raw = claim_unix_path(self._path)
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
                self._path.unlink(missing_ok=True)
                connections.cancel_scope.deadline = anyio.current_time() + DRAIN_TIMEOUT_S
                for scope in list(self._waiting):
                    scope.cancel()

    async def _accept(self, listener: SocketListener, connections: TaskGroup) -> None:
        free = anyio.Semaphore(CONNECTIONS_MAX)
        async with listener:
            with self._until_stopping():
                while True:
                    await free.acquire()
                    try:
                        stream = await listener.accept()
                    except anyio.BrokenResourceError as error:  # no file descriptor is left
                        log.get().error(log.SOURCE_FAILED, error=repr(error.__cause__))
                        free.release()
                        await anyio.sleep(ACCEPT_RETRY_S)
                        continue
                    connections.start_soon(self._connection, stream, free)

    async def _connection(self, stream: SocketStream, free: anyio.Semaphore) -> None:
        try:
            async with stream:
                if _is_allowed(stream):
                    await self._converse(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError):
            pass  # the peer has gone: what it got no ack for, it sends again
        finally:
            free.release()

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


def _is_allowed(stream: SocketStream) -> bool:
    """Whether the peer is this user or root; the socket's mode alone can be changed."""
    raw = stream.extra(SocketAttribute.raw_socket)
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack(
        "3i", raw.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, size)
    )
    return uid in (0, os.geteuid())
