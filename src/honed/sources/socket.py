"""Events from a local socket: newline-delimited JSON, acknowledged after the commit.

One ingest per chunk read: the next read waits for the commit, so a slow disk slows the sender down
and memory stays flat. Connections run shielded: when the daemon stops, each one finishes the chunk
it has read, sends its ack and says that it drains.
"""

import contextlib
import math
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus

from honed import log
from honed.errors import HonedError
from honed.listen import allow_files, claim_unix_path
from honed.ports import DataSink
from honed.sources.feed import Feed, Reply, busy, forbidden
from honed.sources.peers import TurnedAway, allowed_uids, check_reachable, uid_of

READ_SIZE: Final = 256 << 10
CONNECTIONS_MIN: Final = 64
CONNECTIONS_MAX: Final = 10_000
OWN_FILES: Final = 128
"""Open files that are left to the store, the worker and the control API."""
TURN_AWAY_TIMEOUT_S: Final = 1.0
SEND_TIMEOUT_S: Final = 30.0
"""A peer that does not read its acks for this long is cut off."""
IDLE_TIMEOUT_S: Final = 3_600.0
"""A peer that sends nothing for this long is cut off."""
STALL_TIMEOUT_S: Final = 60.0
"""The same in the middle of a line."""
DRAIN_TIMEOUT_S: Final = 10.0
"""What a stopping daemon gives its connections to send their last acks."""
ACCEPT_RETRY_S: Final = 0.2
WATCH_S: Final = 1.0
"""How often it is looked whether the socket's file is still there."""


class SocketSource:
    """`ports.EventSource` on an AF_UNIX stream.

    A socket file that somebody deletes is made anew.

    Args:
        path: the socket; at most 107 bytes. Its folder is made when it is missing.
        sink: where the lines go.
        scenario: told in the hello.
        line_max: bytes of one line at most.
        listener: a socket that listens on `path` already and stays the supervisor's: its owner and mode decide who may
            connect unless there are `allow_uids`, and its file is left where it is.
        connections_max: connections held at a time; further ones are told `busy` and closed. By
            default what the limit of open files allows, which is raised for it as far as it goes.
        allow_uids: users besides this one and root. Without any the socket has mode 0600 and its folder 0700, else
            everybody can connect (0666, 0711) and the others are told `forbidden`.
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
        allow_uids: tuple[int, ...] = (),
    ) -> None:
        self._path = path
        self._sink = sink
        self._scenario = scenario
        self._line_max = line_max
        self._passed = listener
        self._connections_max = connections_max
        self._is_open_to_others = bool(allow_uids)
        is_decided = listener is not None and not allow_uids
        self._allowed = None if is_decided else allowed_uids(allow_uids)
        self._num_connections = 0
        self._busy = TurnedAway(log.SOURCE_BUSY)
        self._forbidden = TurnedAway(log.SOURCE_FORBIDDEN)
        self.problem: str | None = None
        """Why nobody can connect any more, while that is so."""
        self._file: tuple[int, int] | None = None
        """Device and inode of the socket's file; they are not given again while it is bound."""
        self._stopping = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()
        """One scope around each read that waits for a peer."""

    @property
    def num_turned_away(self) -> int:
        """Connections that were one too many, since the process started."""
        return self._busy.num

    @property
    def num_forbidden(self) -> int:
        """Connections of users who may not send, since the process started."""
        return self._forbidden.num

    def status(self) -> dict[str, Any]:
        """For `honed status`: counts of what was not served, and why nobody can connect."""
        return {
            "refused_connections": self.num_turned_away,
            "forbidden_connections": self.num_forbidden,
            "feed_problem": self.problem,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Accept events while the context is open; closing drains what was accepted.

        Raises:
            ConfigError: another daemon listens on the path, or those who are allowed cannot come near it.
            SourceError: the path is too long, or its folder cannot be written.
        """
        listener = await SocketListener.from_socket(self._passed or self._claim())
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._serve, listener)
            log.get().info(log.SOURCE_OPENED, path=str(self._path))
            try:
                yield
            finally:
                self._stopping.set()
        log.get().info(log.SOURCE_CLOSED, path=str(self._path))

    def _claim(self) -> sockets.socket:
        raw = claim_unix_path(self._path, mode=0o666 if self._is_open_to_others else 0o600)
        try:
            if self._is_open_to_others:
                check_reachable(self._path.parent)
            self._file = self._found()
        except BaseException:
            raw.close()
            self._path.unlink(missing_ok=True)
            raise
        return raw

    def _found(self) -> tuple[int, int] | None:
        """What is at the socket's path now."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    async def _serve(
        self, listener: SocketListener, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        # Shielded, so that a cancelled daemon still sends the acks of what it commits.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as connections:
                connections.start_soon(self._listen, listener, connections)
                task_status.started()
                await self._stopping.wait()
                if self._passed is None and self._found() == self._file:
                    self._path.unlink(missing_ok=True)
                connections.cancel_scope.deadline = anyio.current_time() + DRAIN_TIMEOUT_S
                for scope in list(self._waiting):
                    scope.cancel()

    async def _listen(self, listener: SocketListener, connections: TaskGroup) -> None:
        """Accept until it stops; on another socket when the file of the first one is gone."""
        connections_max = self._connections_max or room_for_connections()
        while True:
            async with listener, anyio.create_task_group() as accepting:
                accepting.start_soon(self._accept, listener, connections, connections_max)
                await self._until_gone()
                accepting.cancel_scope.cancel()
            claimed = await self._claim_anew()
            if claimed is None:
                return
            listener = await SocketListener.from_socket(claimed)

    async def _until_gone(self) -> None:
        """Until it stops, or the socket's file is no longer where it was."""
        if self._passed is not None:
            await self._stopping.wait()
            return
        with self._until_stopping():
            while self._found() == self._file:  # noqa: ASYNC110 - a look now and then is all there is
                await anyio.sleep(WATCH_S)

    async def _claim_anew(self) -> sockets.socket | None:
        """A socket at the same path, as soon as that can be; None when it stops."""
        while not self._stopping.is_set():
            try:
                claimed = self._claim()
            except HonedError as error:
                if self.problem != str(error):
                    self.problem = str(error)
                    log.get().error(log.SOURCE_FAILED, error=self.problem, advice=error.advice)
                with self._until_stopping():
                    await anyio.sleep(WATCH_S)
            else:
                self.problem = None
                log.get().warning(log.SOURCE_REOPENED, path=str(self._path))
                return claimed
        return None

    async def _accept(
        self, listener: SocketListener, connections: TaskGroup, connections_max: int
    ) -> None:
        with self._until_stopping():
            while True:
                try:
                    stream = await listener.accept()
                except anyio.BrokenResourceError as error:  # no file descriptor is left
                    log.get().error(log.SOURCE_FAILED, error=repr(error.__cause__))
                    await anyio.sleep(ACCEPT_RETRY_S)
                    continue
                uid = uid_of(stream.extra(SocketAttribute.raw_socket))
                if self._allowed is not None and uid not in self._allowed:
                    self._forbidden.count(uid=uid)
                    await _turn_away(stream, forbidden(uid))
                elif self._num_connections >= connections_max:
                    self._busy.count(connections_max=connections_max)
                    await _turn_away(stream, busy(connections_max))
                else:
                    self._num_connections += 1
                    connections.start_soon(self._connection, stream)

    async def _connection(self, stream: SocketStream) -> None:
        try:
            async with stream:
                await self._converse(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, TimeoutError):
            pass  # the peer has gone: what it got no ack for, it sends again
        except Exception as error:  # a fault of ours in one conversation must not end the daemon
            log.get().exception(log.SOURCE_FAILED, error=repr(error))
        finally:
            self._num_connections -= 1

    async def _converse(self, stream: SocketStream) -> None:
        feed = Feed(self._sink, scenario=self._scenario, line_max=self._line_max)
        reply = Reply(b"")
        while not reply.ends:
            patience_s = STALL_TIMEOUT_S if feed.is_in_mid_line else IDLE_TIMEOUT_S
            chunk: bytes | None = None
            try:
                with self._until_stopping(patience_s):
                    chunk = await stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                reply = feed.end()
            else:
                if chunk is not None:
                    reply = await feed.receive(chunk)
                elif self._stopping.is_set():
                    reply = feed.drain()
                else:
                    reply = feed.idle(patience_s)
            if reply.data:
                await _answer(stream, reply.data)

    def _until_stopping(self, patience_s: float = math.inf) -> "_UntilStopping":
        return _UntilStopping(self._stopping, self._waiting, patience_s)


class _UntilStopping:
    """A scope that is cancelled when the source stops, at once when it has, or when patience ends."""

    def __init__(
        self, stopping: anyio.Event, waiting: set[anyio.CancelScope], patience_s: float
    ) -> None:
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + patience_s)
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
    allowed = allow_files(CONNECTIONS_MAX + OWN_FILES)
    return max(CONNECTIONS_MIN, allowed - OWN_FILES)


async def _answer(stream: SocketStream, data: bytes) -> None:
    """Send all of it. Nearly always the socket takes it at once, which spares a scope with its timer.

    Raises:
        anyio.BrokenResourceError: the peer has gone.
        TimeoutError: it does not read.
    """
    sent = 0
    try:
        sent = stream.extra(SocketAttribute.raw_socket).send(data)
    except BlockingIOError:
        pass
    except OSError as error:
        raise anyio.BrokenResourceError from error
    if sent < len(data):
        with anyio.fail_after(SEND_TIMEOUT_S):
            await stream.send(data[sent:])


async def _turn_away(stream: SocketStream, told: bytes) -> None:
    """Say why, rather than let the peer wait in silence."""
    with (
        contextlib.suppress(anyio.BrokenResourceError),
        anyio.move_on_after(TURN_AWAY_TIMEOUT_S),
    ):
        async with stream:
            await stream.send(told)
