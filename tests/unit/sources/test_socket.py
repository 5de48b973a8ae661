"""The feed protocol on a real socket."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from structlog.testing import capture_logs

from honed.client import AsyncHonedClient, RefusedError
from honed.errors import ConfigError, SourceError, StoreError
from honed.ports import Ingested
from honed.sources import SocketSource
from honed.sources import socket as source_module
from tests.feed_parts import Intake, action, line, open_feed

pytestmark = pytest.mark.anyio


class Peer:
    """A raw client: sends bytes, reads replies."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._replies = BufferedByteReceiveStream(stream)

    async def say(self, *lines: bytes) -> None:
        await self.stream.send(b"".join(entry + b"\n" for entry in lines))

    async def hear(self) -> dict[str, Any]:
        with anyio.fail_after(60):
            reply = json.loads(await self._replies.receive_until(b"\n", 1 << 20))
        assert isinstance(reply, dict)
        return reply

    async def hears_nothing(self) -> bool:
        with anyio.move_on_after(0):
            await self.stream.receive()
            return False
        return True

    async def is_cut_off(self) -> bool:
        with anyio.fail_after(60):
            try:
                await self._replies.receive_until(b"\n", 1 << 20)
            except (anyio.IncompleteRead, anyio.BrokenResourceError):
                return True
        return False


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Peer]:
    async with await anyio.connect_unix(folder / "feed.sock") as stream:
        yield Peer(stream)


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Intake]:
    async with open_feed(tmp_path, line_max=4_000) as opened:
        yield opened


async def test_hello_is_answered_with_what_the_feed_is(feed: Intake, tmp_path: Path) -> None:
    """Protocol, server, scenario and the longest line."""
    async with connected(tmp_path) as peer:
        await peer.say(b'{"type":"hello","protocol":1,"client":"test/1"}')
        hello = await peer.hear()
    assert hello["server"].startswith("honed/")
    del hello["server"]
    expected = {"type": "hello", "protocol": 1, "scenario": "airline", "line_max": 4_000}
    assert hello == expected


async def test_another_protocol_is_refused(feed: Intake, tmp_path: Path) -> None:
    """With both versions, and the connection ends."""
    async with connected(tmp_path) as peer:
        await peer.say(b'{"type":"hello","protocol":2,"client":"test/1"}')
        error = await peer.hear()
        assert (error["type"], error["code"]) == ("error", "protocol")
        assert "2" in error["message"]
        assert "1" in error["message"]
        assert await peer.is_cut_off()


@pytest.mark.parametrize(
    ("hello", "told"),
    [
        (b'{"type":"hello"}', 'the hello names no protocol: expected "protocol":1'),
        (b'{"type":"hello","protocol":null}', "protocol null is not spoken here: expected 1"),
        (b'{"type":"hello","protocol":"%s"}' % (b"x" * 3_000), f'protocol "{"x" * 39} is not'),
    ],
    ids=["none", "null", "long"],
)
async def test_a_hello_without_the_protocol_is_told_what_it_lacks(
    feed: Intake, tmp_path: Path, hello: bytes, told: str
) -> None:
    """In JSON's words, and of what is long no more than its beginning."""
    async with connected(tmp_path) as peer:
        await peer.say(hello)
        error = await peer.hear()
        assert (error["code"], error["message"][: len(told)]) == ("protocol", told)
        assert await peer.is_cut_off()


async def test_lines_are_acknowledged_after_the_commit(feed: Intake, tmp_path: Path) -> None:
    """The ack counts event lines from 1; hello and blank lines are not counted."""
    event = line(action())
    async with connected(tmp_path) as peer:
        await peer.say(b'{"type":"hello","protocol":1}', b"", event, b"  ", event)
        assert (await peer.hear())["type"] == "hello"
        assert await peer.hear() == {"type": "ack", "line": 2, "stored": 1, "duplicates": 1}
        assert (await feed.store.stats()).num_records == 1
        await peer.say(line(action()))
        assert await peer.hear() == {"type": "ack", "line": 3, "stored": 1, "duplicates": 0}


async def test_hello_is_optional(feed: Intake, tmp_path: Path) -> None:
    """A shell pipe can be a source."""
    async with connected(tmp_path) as peer:
        await peer.say(line(action()))
        assert (await peer.hear())["type"] == "ack"


async def test_a_malformed_line_names_its_field_and_the_connection_lives_on(
    feed: Intake, tmp_path: Path
) -> None:
    """Errors come before the ack that covers their line."""
    broken = action(tick=-1)
    async with connected(tmp_path) as peer:
        await peer.say(line(action()), line(broken), b"nonsense")
        error = await peer.hear()
        message, advice = error.pop("message"), error.pop("advice")
        assert error == {"type": "error", "line": 2, "code": "invalid", "path": "$.tick"}
        assert "$.tick" in message
        assert advice
        assert (await peer.hear())["line"] == 3
        assert await peer.hear() == {"type": "ack", "line": 3, "stored": 1, "duplicates": 0}
        await peer.say(line(action()))
        assert (await peer.hear())["stored"] == 1


@pytest.mark.parametrize(
    "first", [b'{"hello"\xc1}', b'"hello', b'["hello"]', b'{"type":"hello"', b"\xff"]
)
async def test_a_first_line_that_is_no_hello_is_an_event(
    feed: Intake, tmp_path: Path, first: bytes
) -> None:
    """And a bad one, whatever bytes it is made of."""
    async with connected(tmp_path) as peer:
        await peer.say(first, line(action()))
        error = await peer.hear()
        assert (error["code"], error["line"]) == ("invalid", 1)
        assert (await peer.hear())["stored"] == 1


class Faulty:
    """A sink with a fault."""

    async def ingest(self, lines: Sequence[bytes]) -> Ingested:
        raise RuntimeError("a fault")


async def test_a_fault_in_one_conversation_ends_no_other(tmp_path: Path) -> None:
    """It is logged with its traceback, nothing is acknowledged, and the door stays open."""
    source = SocketSource(tmp_path / "feed.sock", Faulty(), scenario="airline", line_max=1_000)
    with capture_logs() as logs:
        async with source.open(), connected(tmp_path) as other:
            async with connected(tmp_path) as peer:
                await peer.say(line(action()))
                assert await peer.is_cut_off()
            await other.say(b'{"type":"hello","protocol":1}')
            assert (await other.hear())["type"] == "hello"
    [failed] = [entry for entry in logs if entry["event"] == "source.failed"]
    assert "a fault" in failed["error"]
    assert failed["exc_info"]


async def test_a_conflict_is_told_and_the_connection_lives_on(feed: Intake, tmp_path: Path) -> None:
    """Same id, other content."""
    async with connected(tmp_path) as peer:
        await peer.say(line(action(event_id="e1")), line(action(event_id="e1", name="jump")))
        error = await peer.hear()
        assert (error["line"], error["code"], error["path"]) == (2, "conflict", "$.event_id")
        assert "event_id" in error["advice"]
        assert "spacing included" in error["message"]
        assert (await peer.hear())["stored"] == 1


async def test_half_a_line_before_the_end_is_not_stored(feed: Intake, tmp_path: Path) -> None:
    """The lines before it are; the sender is told which one is missing."""
    async with connected(tmp_path) as peer:
        await peer.stream.send(line(action()) + b"\n" + line(action())[:20])
        assert (await peer.hear())["line"] == 1
        await peer.stream.send_eof()
        error = await peer.hear()
        assert (error["line"], error["code"]) == (2, "invalid")
        assert await peer.is_cut_off()
    assert (await feed.store.stats()).num_records == 1
    assert feed.sink.counts().rejected == 1


async def test_a_peer_that_vanishes_in_mid_line_harms_nobody(feed: Intake, tmp_path: Path) -> None:
    """Other connections go on."""
    async with connected(tmp_path) as other:
        async with connected(tmp_path) as peer:
            await peer.stream.send(line(action())[:30])
        await other.say(line(action()))
        assert (await other.hear())["stored"] == 1


@pytest.mark.parametrize("end", [b"\n", b""])
async def test_a_line_over_the_limit_ends_the_connection(
    feed: Intake, tmp_path: Path, end: bytes
) -> None:
    """With the limit in the message, after the ack of the lines before it."""
    async with connected(tmp_path) as peer:
        await peer.stream.send(line(action()) + b"\n" + b"x" * 4_001 + end)
        replies = [await peer.hear(), await peer.hear()]
        assert replies[0]["type"] == "ack"
        assert (replies[1]["code"], replies[1]["line"]) == ("too_long", 2)
        assert "4000" in replies[1]["message"]
        assert await peer.is_cut_off()
    assert feed.sink.counts().rejected == 1


async def test_a_line_without_an_end_does_not_grow_the_memory(feed: Intake, tmp_path: Path) -> None:
    """A stream of bytes without a newline is cut off at the limit."""
    async with connected(tmp_path) as peer:
        with pytest.raises(anyio.BrokenResourceError):
            await peer.stream.send(b"x" * (64 << 20))
        assert (await peer.hear())["code"] == "too_long"


async def test_a_thousand_peers_are_all_served(feed: Intake, tmp_path: Path) -> None:
    """All at once, on one event loop; each gets its ack."""
    acks: list[dict[str, Any]] = []

    async def one() -> None:
        async with connected(tmp_path) as peer:
            await peer.say(line(action()))
            acks.append(await peer.hear())

    async with anyio.create_task_group() as tasks:
        for _ in range(1_000):
            tasks.start_soon(one)
    assert len(acks) == 1_000
    assert (await feed.store.stats()).num_records == 1_000


async def test_a_connection_too_many_is_told_so(feed: Intake, tmp_path: Path) -> None:
    """Idle ones lock nobody out in silence; it is logged once, and the next one free is served."""
    path = tmp_path / "small.sock"
    source = SocketSource(path, feed.sink, scenario="airline", line_max=1_000, connections_max=2)
    with capture_logs() as logs:
        async with source.open(), await anyio.connect_unix(path) as idle:
            async with await anyio.connect_unix(path) as stream:
                for _ in range(3):
                    async with await anyio.connect_unix(path) as one_too_many:
                        peer = Peer(one_too_many)
                        told = await peer.hear()
                        assert (told["type"], told["code"], told["line"]) == ("error", "busy", 0)
                        assert told["advice"]
                        assert await peer.is_cut_off()
                await Peer(stream).say(line(action()))
                assert (await Peer(stream).hear())["stored"] == 1
                await stream.send_eof()
                assert await Peer(stream).is_cut_off()
            client = AsyncHonedClient(path)
            sent = await client.send(action())
            await client.close()
            assert await Peer(idle).hears_nothing()
    assert sent.stored == 1
    assert source.num_turned_away == 3
    assert [entry["num_turned_away"] for entry in logs if entry["event"] == "source.busy"] == [1]


async def test_a_client_tries_a_busy_daemon_again(feed: Intake, tmp_path: Path) -> None:
    """When nothing comes free it says so, with the daemon's own words."""
    path = tmp_path / "small.sock"
    source = SocketSource(path, feed.sink, scenario="airline", line_max=1_000, connections_max=1)
    async with source.open(), await anyio.connect_unix(path):
        with pytest.raises(RefusedError, match="connections are in use") as caught:
            await AsyncHonedClient(path).send(action())
    assert caught.value.code == "busy"
    assert source.num_turned_away == 2


def test_room_for_connections_follows_the_limit_of_open_files() -> None:
    """The soft limit is raised as far as it is needed and allowed; some files stay for ourselves."""
    script = (
        "import resource as r; from honed.sources.socket import room_for_connections as room;"
        "limit = r.RLIMIT_NOFILE; r.setrlimit(limit, (256, {hard}));"
        "print(room(), r.getrlimit(limit)[0])"
    )

    def told(hard: int) -> str:
        python = [sys.executable, "-c", script.format(hard=hard)]
        return subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()

    assert told(1_024) == "896 1024"
    assert told(256) == "128 256"


class Broken:
    """A sink whose store fails."""

    async def ingest(self, lines: Sequence[bytes]) -> Ingested:
        raise StoreError("the disk is full", advice="make room")


async def test_a_failing_store_is_told_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    """The error names the first line that is not on disk; the connection ends."""
    source = SocketSource(tmp_path / "feed.sock", Broken(), scenario="airline", line_max=1_000)
    async with source.open(), connected(tmp_path) as peer:
        await peer.say(line(action()), line(action()))
        assert await peer.hear() == {
            "type": "error",
            "line": 1,
            "code": "store",
            "message": "the disk is full",
            "advice": "make room",
        }
        assert await peer.is_cut_off()


class Slow:
    """A sink that stores when it is allowed to."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.go = anyio.Event()

    async def ingest(self, lines: Sequence[bytes]) -> Ingested:
        self.entered.set()
        await self.go.wait()
        return Ingested(len(lines), 0, ())


async def test_stopping_finishes_the_chunk_that_was_read(tmp_path: Path) -> None:
    """Its ack goes out, the peer is told that the daemon drains, and nobody new gets in."""
    slow = Slow()
    source = SocketSource(tmp_path / "feed.sock", slow, scenario="airline", line_max=1_000)
    async with (
        anyio.create_task_group() as tasks,
        connected_to(source, tmp_path, tasks) as (peer, stop),
    ):
        await peer.say(line(action()))
        await slow.entered.wait()
        stop.cancel()
        with anyio.fail_after(60):
            while (tmp_path / "feed.sock").exists():
                await anyio.sleep(0.01)
        slow.go.set()
        assert (await peer.hear())["type"] == "ack"
        assert (await peer.hear())["code"] == "draining"
        assert await peer.is_cut_off()


@asynccontextmanager
async def connected_to(
    source: SocketSource, folder: Path, tasks: anyio.abc.TaskGroup
) -> AsyncIterator[tuple[Peer, anyio.CancelScope]]:
    """A peer of a source that runs in a task which can be cancelled, as the daemon's is."""
    stop = anyio.CancelScope()

    async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with stop:
            async with source.open():
                task_status.started()
                await anyio.sleep_forever()

    await tasks.start(run)
    async with connected(folder) as peer:
        yield peer, stop


async def test_stopping_waits_for_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that does not end is left after the drain time-out."""
    monkeypatch.setattr(source_module, "DRAIN_TIMEOUT_S", 0.1)
    slow = Slow()
    source = SocketSource(tmp_path / "feed.sock", slow, scenario="airline", line_max=1_000)
    with anyio.fail_after(60):
        async with source.open():
            stream = await anyio.connect_unix(tmp_path / "feed.sock")
            await stream.send(line(action()) + b"\n")
            await slow.entered.wait()
        await stream.aclose()


@pytest.mark.parametrize(
    ("begun", "limit", "says"),
    [
        (line(action())[:30], "STALL_TIMEOUT_S", "line 2 has no end"),
        (b"", "IDLE_TIMEOUT_S", "0.2 s"),
    ],
)
async def test_a_silent_peer_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes, limit: str, says: str
) -> None:
    """In the middle of a line soon, between lines late; what it sent before is stored, others go on."""
    monkeypatch.setattr(source_module, limit, 0.2)
    async with open_feed(tmp_path) as feed, connected(tmp_path) as peer:
        await peer.stream.send(line(action()) + b"\n" + begun)
        assert (await peer.hear())["line"] == 1
        async with connected(tmp_path) as other:
            await other.say(line(action()))
            assert (await other.hear())["stored"] == 1
        error = await peer.hear()
        assert (error["code"], error["line"]) == ("idle", 2)
        assert says in error["message"]
        assert await peer.is_cut_off()
        assert (await feed.store.stats()).num_records == 2


async def test_a_client_that_was_idle_connects_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a word to its caller."""
    monkeypatch.setattr(source_module, "IDLE_TIMEOUT_S", 0.05)
    async with open_feed(tmp_path) as feed, AsyncHonedClient(tmp_path / "feed.sock") as client:
        for _ in range(3):
            assert (await client.send(action())).stored == 1
            await anyio.sleep(0.15)
        assert (await feed.store.stats()).num_records == 3


async def test_a_peer_that_reads_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replies fill the socket; after a while the daemon lets it go."""
    monkeypatch.setattr(source_module, "SEND_TIMEOUT_S", 0.2)
    async with open_feed(tmp_path), connected(tmp_path) as peer:
        with pytest.raises(anyio.BrokenResourceError), anyio.fail_after(30):
            await peer.stream.send(b"1\n" * 10_000_000)


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed daemon leaves behind does not keep the next one from starting."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "feed.sock"))
    left.close()
    async with open_feed(tmp_path), connected(tmp_path) as peer:
        await peer.say(line(action()))
        assert (await peer.hear())["stored"] == 1
    assert not (tmp_path / "feed.sock").exists()


async def test_a_second_daemon_is_refused(feed: Intake, tmp_path: Path) -> None:
    """The first one keeps its socket."""
    second = SocketSource(tmp_path / "feed.sock", feed.sink, scenario="airline", line_max=1_000)
    with pytest.raises(ConfigError, match="another"):
        async with second.open():
            pass
    async with connected(tmp_path) as peer:
        await peer.say(line(action()))
        assert (await peer.hear())["stored"] == 1


async def test_a_daemon_with_a_full_backlog_is_not_stale(feed: Intake, tmp_path: Path) -> None:
    """One that is too busy to accept keeps its socket all the same."""
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(tmp_path / "busy.sock"))
    busy.listen(0)
    waiting = []
    with contextlib.suppress(BlockingIOError):
        for _ in range(10):
            peer = socket.socket(socket.AF_UNIX)
            waiting.append(peer)
            peer.setblocking(False)
            peer.connect(str(tmp_path / "busy.sock"))
    source = SocketSource(tmp_path / "busy.sock", feed.sink, scenario="airline", line_max=1_000)
    with pytest.raises(ConfigError, match="another"):
        async with source.open():
            pass
    for one in (busy, *waiting):
        one.close()


async def test_a_file_in_the_way_is_left_alone(feed: Intake, tmp_path: Path) -> None:
    """Only a socket is replaced."""
    path = anyio.Path(tmp_path / "precious")
    await path.write_text("text")
    source = SocketSource(tmp_path / "precious", feed.sink, scenario="airline", line_max=1_000)
    with pytest.raises(SourceError, match="in the way"):
        async with source.open():
            pass
    assert await path.read_text() == "text"


async def test_a_path_that_is_too_long_is_refused(feed: Intake, tmp_path: Path) -> None:
    """With Linux's limit, before anything is bound."""
    path = tmp_path / ("x" * 100) / "feed.sock"
    source = SocketSource(path, feed.sink, scenario="airline", line_max=1_000)
    with pytest.raises(ConfigError, match="107"):
        async with source.open():
            pass


async def test_the_socket_is_private(tmp_path: Path) -> None:
    """Its folder is the owner's alone and so is the socket, from the first moment."""
    before = os.umask(0)
    try:
        async with open_feed(tmp_path / "data"):
            modes = [
                (tmp_path / name).stat().st_mode & 0o777 for name in ("data", "data/feed.sock")
            ]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o600]
