"""Both clients against a real feed, and against daemons that go away."""

import asyncio
import contextlib
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.client import (
    AsyncHonedClient,
    ConnectionLostError,
    HonedClient,
    RefusedError,
    RejectedError,
    Sent,
)
from honed.domain.outcome import Success
from honed.domain.records import ActionRecord
from tests.feed_parts import Intake, action, open_feed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[Intake]:
    async with open_feed(tmp_path) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.sock"


async def test_a_task_sent_by_the_async_client_becomes_an_episode(feed: Intake, path: Path) -> None:
    """Action, call and outcome in their short forms, with the client's agent."""
    async with AsyncHonedClient(path, agent="planner") as client:
        sent = await client.action("look", task_id="t1", tick=1, output="dark")
        assert (sent.stored, sent.duplicates, len(sent.event_ids)) == (1, 0, 1)
        await client.llm_call([{"role": "user", "content": "?"}], None, task_id="t1", error="x")
        await client.outcome(task_id="t1", score=0.5)
    with anyio.fail_after(60):
        made = await feed.episodes.receive()
    assert made.outcome == Success(0.5)
    assert [record.agent for record in made.records] == ["planner"] * 3


async def test_a_task_sent_by_the_sync_client_becomes_an_episode(feed: Intake, path: Path) -> None:
    """The same from a thread."""

    def swarm() -> None:
        with HonedClient(path, scenario="airline") as client:
            client.action("look", task_id="t1", tick=1)
            client.llm_call([{"role": "user", "content": "?"}], None, task_id="t1", error="x")
            client.outcome(task_id="t1", success=True)

    await anyio.to_thread.run_sync(swarm)
    with anyio.fail_after(60):
        made = await feed.episodes.receive()
    assert len(made.records) == 3


async def test_a_missing_socket_is_told_with_what_to_do(tmp_path: Path) -> None:
    """Of both clients: no daemon was started, or the data folder is another one."""
    nowhere = tmp_path / "feed.sock"
    with pytest.raises(ConnectionLostError, match=r"no answer from .*: No such file") as lost:
        await AsyncHonedClient(nowhere).send(action())
    assert "`honed up`" in lost.value.__notes__[0]
    with pytest.raises(ConnectionLostError) as lost:
        HonedClient(nowhere).send(action())
    assert "is data_dir another one?" in lost.value.__notes__[0]


async def test_many_events_go_in_windows(feed: Intake, path: Path) -> None:
    """More than a window, by lines and by bytes, in order."""
    events = [action(name=f"a{n}", target="x" * (n % 5_000)) for n in range(2_000)]
    async with AsyncHonedClient(path) as client:
        assert (await client.send(*events)).stored == 2_000
        assert (await client.send(*events)).duplicates == 2_000
    [group] = await feed.store.open_groups(
        settled_before_ms=0, idle_before_ms=1 << 60, now_ms=1 << 60
    )
    records = (await feed.store.group_records([group.id]))[group.id]
    assert [r.action for r in records if isinstance(r, ActionRecord)] == [
        f"a{n}" for n in range(2_000)
    ]


async def test_rejected_events_are_told_and_the_others_are_stored(feed: Intake, path: Path) -> None:
    """With position, field and message; the client can go on."""
    async with AsyncHonedClient(path) as client:
        with pytest.raises(RejectedError, match="tick") as caught:
            await client.send(action(), action(tick="soon"), action())
        assert caught.value.stored == 2
        assert [(e.position, e.code, e.path) for e in caught.value.events] == [
            (1, "invalid", "$.tick")
        ]
        assert (await client.send(action())).stored == 1


async def test_a_client_may_be_shared(feed: Intake, path: Path) -> None:
    """By tasks and by threads: sends go one after another."""
    async with AsyncHonedClient(path) as client, asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(client.send(action()))

    def swarm() -> None:
        with HonedClient(path) as client:
            threads = [threading.Thread(target=client.send, args=[action()]) for _ in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    await anyio.to_thread.run_sync(swarm)
    assert (await feed.store.stats()).num_records == 100


async def test_the_child_of_a_fork_has_a_connection_of_its_own(feed: Intake, path: Path) -> None:
    """The async client is in use in a running loop; parent and child go on, each in its loop."""
    code = (
        "import asyncio, os, sys, warnings; from honed.client import AsyncHonedClient\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "async def send(client, who):\n"
        "    for n in range(50): await client.action(f'{who}{n}', task_id='t1', tick=n)\n"
        "async def main():\n"
        "    async with AsyncHonedClient(sys.argv[1]) as client:\n"
        "        await send(client, 'a')\n"
        "        child = os.fork()\n"
        "        if child == 0:\n"
        "            asyncio.events._set_running_loop(None)\n"
        "            asyncio.run(send(client, 'c'))\n"
        "            os._exit(0)\n"
        "        await send(client, 'p')\n"
        "        assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0\n"
        "        await send(client, 'z')\n"
        "asyncio.run(main())\n"
    )
    done = await anyio.run_process([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 0, done.stderr.decode()
    stats = await feed.store.stats()
    assert (stats.num_records, stats.num_duplicates) == (200, 0)


async def test_a_cancelled_send_leaves_no_foreign_replies(feed: Intake, path: Path) -> None:
    """The next send speaks on a connection of its own."""
    async with AsyncHonedClient(path) as client:
        async with feed.store._writer.turn():
            with anyio.move_on_after(0.1):
                await client.send(action(), action())
        with pytest.raises(RejectedError):
            await client.send(action(tick=-1))


async def test_a_restarted_daemon_is_found_again(tmp_path: Path, path: Path) -> None:
    """The connection is made again, without a word to the caller."""
    async with open_feed(tmp_path):
        client = AsyncHonedClient(path)
        await client.send(action())
    async with open_feed(tmp_path) as feed:
        await client.send(action())
        assert (await feed.store.stats()).num_records == 2
        await client.close()


async def test_no_daemon_is_told_as_a_lost_connection(path: Path) -> None:
    """With the path."""
    with pytest.raises(ConnectionLostError, match=str(path)):
        async with AsyncHonedClient(path):
            pass
    with pytest.raises(ConnectionLostError, match=str(path)):
        HonedClient(path).send(action())


async def test_a_line_that_is_too_long_is_not_tried_again(tmp_path: Path, path: Path) -> None:
    """The daemon's words reach the caller, from both clients."""
    async with open_feed(tmp_path, line_max=1_000):
        async with AsyncHonedClient(path) as client:
            with pytest.raises(RefusedError, match="takes 1000"):
                await client.send(action(target="x" * 2_000_000))
            assert (await client.send(action())).stored == 1

        def swarm() -> None:
            with HonedClient(path) as client:
                with pytest.raises(RefusedError, match="takes 1000"):
                    client.send(action(target="x" * 2_000_000))
                assert client.send(action()).stored == 1

        await anyio.to_thread.run_sync(swarm)


@contextlib.contextmanager
def scripted(path: Path, *scripts: list[dict[str, Any] | None]) -> Iterator[list[list[str]]]:
    """A daemon that answers each connection with its script and hangs up; what it heard.

    After the hello each reply of a script follows one received chunk; None means silence.
    """
    heard: list[list[str]] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def run() -> None:
        for script in scripts:
            peer, _ = server.accept()
            with peer, peer.makefile("rb") as lines:
                lines.readline()
                peer.sendall(b'{"type":"hello","protocol":1}\n')
                ids: list[str] = []
                heard.append(ids)
                for reply in script:
                    ids.append(json.loads(lines.readline())["event_id"])
                    if reply is not None:
                        peer.sendall(json.dumps(reply).encode() + b"\n")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield heard
    finally:
        thread.join(10)
        server.close()


async def test_what_was_not_acknowledged_is_sent_again_with_its_id(path: Path) -> None:
    """The daemon dies after the first of three: the second connection carries the other two."""
    first = [{"type": "ack", "line": 1, "stored": 1}, None]
    second = [None, {"type": "ack", "line": 2, "stored": 1, "duplicates": 1}]
    events = [action() for _ in range(3)]
    ids = [event["event_id"] for event in events]

    def send() -> Sent:
        with contextlib.closing(HonedClient(path)) as client:
            return client.send(*events)

    with scripted(path, first, second) as heard:
        sent = await anyio.to_thread.run_sync(send)
    assert heard == [ids[:2], ids[1:]]
    assert sent == (2, 1, tuple(ids))


async def test_a_second_loss_is_told(path: Path) -> None:
    """One new connection is tried, not more."""
    with scripted(path, [None], [None]), pytest.raises(ConnectionLostError):
        await AsyncHonedClient(path).send(action())


async def test_a_daemon_that_cannot_store_is_told_after_a_second_try(path: Path) -> None:
    """With its reason."""
    full = {"type": "error", "line": 1, "code": "store", "message": "the disk is full"}
    with scripted(path, [full], [full]), pytest.raises(RefusedError, match="disk is full"):
        await AsyncHonedClient(path).send(action())
    await anyio.Path(path).unlink()
    with scripted(path, [full], [{"type": "ack", "line": 1, "stored": 1}]):
        client = AsyncHonedClient(path)
        assert (await client.send(action())).stored == 1
        await client.close()


async def test_silence_is_not_waited_for_for_ever(path: Path) -> None:
    """Each ack has `timeout_s`."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    with pytest.raises(ConnectionLostError), anyio.fail_after(60):
        await AsyncHonedClient(path, timeout_s=0.1).send(action())
    with pytest.raises(ConnectionLostError):
        await anyio.to_thread.run_sync(lambda: HonedClient(path, timeout_s=0.1).send(action()))
    server.close()
