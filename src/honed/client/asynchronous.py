"""The client for asyncio."""

import asyncio
import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from honed.client import events, wire
from honed.client.exchange import DaemonLeftError, Exchange, Sent
from honed.client.faults import ConnectionLostError, RefusedError
from honed.client.task import AsyncTask


class AsyncHonedClient:
    """`HonedClient` for asyncio.

    The tasks of one event loop may share it; their sends go one after another. After a fork the child, in an event
    loop of its own, has a connection of its own.

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
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._num_lines = 0
        self._line_max = wire.LINE_MAX
        _alive.add(self)

    async def __aenter__(self) -> "AsyncHonedClient":
        async with self._lock:
            try:
                await self._retried(self._connect)
            except BaseException:
                await self._disconnect()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the next `send` makes a new one."""
        async with self._lock:
            await self._disconnect()

    async def send(self, *events: dict[str, Any]) -> Sent:
        """Send events; returns when all of them are on disk. Raises as `HonedClient.send`."""
        full = [wire.complete(e, scenario=self._scenario, agent=self._agent) for e in events]
        return await self._exchanged(
            Exchange([wire.encode(e) for e in full], [str(e["event_id"]) for e in full])
        )

    async def send_lines(self, lines: Sequence[bytes]) -> Sent:
        """Send events that are written already, one JSON object each, byte for byte and without newlines.

        Nothing is filled in, so that sending the same line again is a repeat. `event_ids` of the answer is empty.
        Raises as `HonedClient.send`.
        """
        sent = await self._exchanged(Exchange([line + b"\n" for line in lines], [""] * len(lines)))
        return sent._replace(event_ids=())

    async def _exchanged(self, exchange: Exchange) -> Sent:
        async with self._lock:
            try:
                await self._retried(lambda: self._converse(exchange))
            except BaseException:
                # An exchange cut off leaves replies behind that the next one must not read.
                await self._disconnect()
                raise
        return exchange.result()

    async def action(self, action: str, *, task_id: str, tick: int, **fields: Any) -> Sent:
        """Send one thing an agent did; fields as in `client.events.action_event`."""
        return await self.send(events.action_event(action, task_id=task_id, tick=tick, **fields))

    async def llm_call(
        self,
        messages: list[dict[str, Any]],
        response_message: dict[str, Any] | None,
        **fields: Any,
    ) -> Sent:
        """Send one call of a language model; fields as in `client.events.llm_call_event`."""
        return await self.send(events.llm_call_event(messages, response_message, **fields))

    async def outcome(
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
        return await self.send(said)

    def task(self, task_id: str | None = None, **fields: Any) -> AsyncTask[Awaitable[Sent]]:
        """One attempt at a task, as an async context manager; fields go into each of its events."""
        return AsyncTask(self.send, task_id, **fields)

    async def _converse(self, exchange: Exchange) -> None:
        if self._streams is None:
            await self._connect()
        assert self._streams is not None
        exchange.check(self._line_max)
        reader, writer = self._streams
        while not exchange.is_done:
            lines = exchange.window(self._num_lines)
            self._num_lines += len(lines)
            writer.write(b"".join(lines))
            # Reading on after a broken pipe: the daemon may have said why before it closed.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                async with asyncio.timeout(self._timeout_s):
                    await writer.drain()
            while not exchange.is_window_done:
                exchange.take(await self._read(reader))

    async def _retried(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do it, and once more on a new connection when the daemon went away."""
        try:
            try:
                await step()
            except (OSError, DaemonLeftError):
                await self._disconnect()
                await step()
        except DaemonLeftError as left:
            raise left.refused from None
        except OSError as error:
            raise ConnectionLostError.of(self._path, error) from error

    async def _connect(self) -> None:
        self._num_lines = 0
        async with asyncio.timeout(self._timeout_s):
            opened = asyncio.open_unix_connection(self._path, limit=wire.LINE_MAX)
            self._streams = reader, writer = await opened
        writer.write(wire.hello())
        reply = await self._read(reader)
        if reply.get("type") == "error":
            Exchange([], []).take(reply)
        if reply.get("type") != "hello":
            raise RefusedError("protocol", f"{self._path} is not a honed feed")
        self._line_max = int(reply.get("line_max", wire.LINE_MAX))

    async def _read(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        async with asyncio.timeout(self._timeout_s):
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the daemon closed the connection")
        return wire.decode(line)

    async def _disconnect(self) -> None:
        if self._streams is None:
            return
        _, writer = self._streams
        self._streams = None
        writer.close()
        with contextlib.suppress(OSError):  # it may be broken already
            await writer.wait_closed()

    def _after_fork(self) -> None:
        """In the child: the connection is the parent's, and so is the loop that its lock belongs to."""
        self._lock = asyncio.Lock()
        # Kept and not closed: that would take it out of the parent's epoll, which both processes share.
        _of_the_parent.append(self._streams)
        self._streams = None


_alive: "weakref.WeakSet[AsyncHonedClient]" = weakref.WeakSet()
_of_the_parent: list[Any] = []


def _in_child() -> None:
    for client in list(_alive):
        client._after_fork()


os.register_at_fork(after_in_child=_in_child)
