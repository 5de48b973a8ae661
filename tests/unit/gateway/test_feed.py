"""Captured calls reach the daemon's feed once it is there, and are kept until it has them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.events import LlmCallEvent, parse_event
from honed.gateway.capture import Call, Captured, uuid7
from honed.gateway.feed import FeedSender
from honed.gateway.feed_link import FeedLink, FeedLostError
from honed.gateway.labels import Labels

pytestmark = pytest.mark.anyio

Replies = Callable[[int, bytes], list[dict[str, Any]] | None]
"""Line number and line to replies; None closes the connection."""


def call(content: str = "hi", *, size: int = 0) -> Call:
    answer = {
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "ok" + "x" * size},
            }
        ]
    }
    return Call(
        receipt_id=uuid7(),
        labels=Labels(),
        endpoint="/v1/chat/completions",
        scenario="tiny",
        adapter_id=None,
        started_at_ms=1,
        latency_ms=1,
        request=msgspec.json.encode({"messages": [{"role": "user", "content": content}]}),
        answer=msgspec.json.encode(answer),
        is_stream=False,
    )


class Feed:
    """A feed on a real socket that replies as it is told and keeps every line."""

    def __init__(self, path: Path, replies: Replies, *, line_max: int = 1 << 20) -> None:
        self.lines: list[bytes] = []
        self.connections = 0
        self.replies = replies
        self._path = path
        self._line_max = line_max
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._connected, str(self._path), limit=8 << 20)
        try:
            yield
        finally:
            server.close()
            self._path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        hello = msgspec.json.decode(await reader.readline())
        assert (hello["type"], hello["protocol"]) == ("hello", 1)
        self._say(writer, {"type": "hello", "protocol": 1, "line_max": self._line_max})
        number = 0
        while line := await reader.readline():
            number += 1
            self.lines.append(line)
            replies = self.replies(number, line)
            if replies is None:
                break
            for reply in replies:
                self._say(writer, reply)
        writer.close()

    def break_off(self) -> None:
        """Hang up on everybody; whoever comes again is listened to."""
        while self._writers:
            self._writers.pop().transport.abort()

    def say(self, *replies: dict[str, Any]) -> None:
        """Tell everybody something that nobody has asked for just now."""
        for writer in self._writers:
            for reply in replies:
                self._say(writer, reply)

    @staticmethod
    def _say(writer: asyncio.StreamWriter, reply: dict[str, Any]) -> None:
        writer.write(msgspec.json.encode(reply) + b"\n")


def ack(number: int, line: bytes = b"") -> list[dict[str, Any]]:
    return [{"type": "ack", "line": number, "stored": 1, "duplicates": 0}]


@asynccontextmanager
async def sending(captured: Captured, path: Path | None) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(FeedSender(captured, lambda: path).run)
        yield
        tasks.cancel_scope.cancel()


async def until(done: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(60):
        while not done():
            await anyio.sleep(0.005)


async def test_a_feed_that_acknowledges_too_much_does_not_end_the_gateway(tmp_path: Path) -> None:
    """What it says is worth nothing then: hung up on, it gets the next calls over another connection."""
    captured = Captured("tiny")
    feed = Feed(tmp_path / "feed.sock", lambda number, line: ack(number + 1_000))
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        captured.offer(call("first"))
        await until(lambda: captured.sent == 1)
        feed.replies = ack
        captured.offer(call("second"))
        await until(lambda: captured.sent == 2)
    assert feed.connections == 2


async def test_calls_arrive_as_events_in_order(tmp_path: Path) -> None:
    """What was captured is what the feed reads."""
    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", ack)
    calls = [call(str(i)) for i in range(600)]
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        for each in calls:
            captured.offer(each)
        with anyio.fail_after(60):
            await captured.wait_empty()
    events = [parse_event(line) for line in feed.lines]
    assert [event.event_id for event in events] == [each.receipt_id for each in calls]
    assert all(isinstance(event, LlmCallEvent) for event in events)
    assert captured.counts() == {
        "queued": 0,
        "spooled": 0,
        "sent": 600,
        "dropped": 0,
        "refused": 0,
        "skipped": 0,
        "damaged": 0,
        "spooled_bytes": 0,
        "spooled_since_ms": 0,
        "spool_failing": 0,
    }


async def test_unacknowledged_calls_are_sent_again(tmp_path: Path) -> None:
    """A daemon that dies before its ack gets the same events from its successor's socket."""
    captured = Captured("tiny")
    first = Feed(tmp_path / "feed.sock", lambda number, line: [] if number < 5 else None)
    second = Feed(tmp_path / "feed.sock", ack)
    calls = [call(str(i)) for i in range(5)]
    async with sending(captured, tmp_path / "feed.sock"):
        async with first.open():
            for each in calls:
                captured.offer(each)
            await until(lambda: len(first.lines) == 5)
        assert captured.sent == 0
        async with second.open():
            with anyio.fail_after(60):
                await captured.wait_empty()
    assert second.lines == first.lines
    assert captured.sent == 5


async def test_calls_wait_while_the_daemon_is_away(tmp_path: Path) -> None:
    """Nobody listens at first; nothing is lost, nothing fails."""
    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", ack)
    async with sending(captured, tmp_path / "feed.sock"):
        captured.offer(call())
        await until(lambda: captured.counts()["queued"] == 1)
        async with feed.open():
            with anyio.fail_after(60):
                await captured.wait_empty()
    assert captured.sent == 1


async def test_refused_call_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    """An event that the feed calls invalid is given up; the connection lives on."""

    def replies(number: int, line: bytes) -> list[dict[str, Any]]:
        if number in (1, 3):
            return [{"type": "error", "line": number, "code": "conflict", "message": "no"}]
        return ack(number)

    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", replies)
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        for i in range(3):
            captured.offer(call(str(i)))
        with anyio.fail_after(60):
            await captured.wait_empty()
    assert (captured.sent, captured.refused, feed.connections) == (1, 2, 1)


@pytest.mark.parametrize("code", ["draining", "store"])
async def test_daemon_in_trouble_is_asked_again(tmp_path: Path, code: str) -> None:
    """`draining` and `store` are about the daemon, not about the event."""

    def replies(number: int, line: bytes) -> list[dict[str, Any]]:
        if feed.connections == 1:
            return [{"type": "error", "line": number, "code": code, "message": "later"}]
        return ack(number)

    captured = Captured("tiny")
    feed = Feed(tmp_path / "feed.sock", replies)
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        captured.offer(call())
        with anyio.fail_after(60):
            await captured.wait_empty()
    assert (captured.sent, captured.refused) == (1, 0)


async def test_event_longer_than_a_line_may_be_is_dropped(tmp_path: Path) -> None:
    """The feed says in its hello how long a line may be."""
    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", ack, line_max=2_000)
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        for size in (0, 100_000, 0):
            captured.offer(call(size=size))
        with anyio.fail_after(60):
            await captured.wait_empty()
    assert (captured.sent, captured.dropped) == (2, 1)


async def test_call_in_hand_survives_a_lost_connection(tmp_path: Path) -> None:
    """A sender that is cancelled between queue and window does not lose the call it has taken."""
    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", ack)
    sender = FeedSender(captured, lambda: tmp_path / "feed.sock")
    captured.offer(call(size=100_000))  # long enough to be merged in a thread
    with anyio.CancelScope() as scope:
        scope.cancel()
        await sender.run()
    async with feed.open(), anyio.create_task_group() as tasks:
        tasks.start_soon(sender.run)
        with anyio.fail_after(60):
            await captured.wait_empty()
        tasks.cancel_scope.cancel()
    assert captured.sent == 1


async def test_call_that_cannot_be_told_is_skipped(tmp_path: Path) -> None:
    """A request in a form that is not kept leaves no event and stops nothing."""
    captured, feed = Captured("tiny"), Feed(tmp_path / "feed.sock", ack)
    alien = msgspec.structs.replace(call(), request=b'{"messages": [{"role": "alien"}]}')
    async with feed.open(), sending(captured, tmp_path / "feed.sock"):
        captured.offer(alien)
        captured.offer(call())
        with anyio.fail_after(60):
            await captured.wait_empty()
    assert (captured.sent, captured.skipped) == (1, 1)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_daemon_that_dies_under_a_write_is_a_lost_feed() -> None:
    """uvloop says it with a RuntimeError of its own; it must not end the gateway."""
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        link = FeedLink(reader, writer, scenario="tiny", line_max=100)
        writer.transport.abort()
        await asyncio.sleep(0.01)
        with pytest.raises(FeedLostError, match="closed"):
            link.write(b"{}\n")
