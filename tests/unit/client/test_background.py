"""The client that never makes an agent wait, against real feeds, absent feeds and full disks."""

import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from honed.client import BackgroundClient
from honed.client.wire import LINE_MAX
from tests.feed_parts import Intake, action, open_feed

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.sock"


@pytest.fixture
def client(path: Path, tmp_path: Path) -> Iterator[BackgroundClient]:
    with BackgroundClient(path, spool=tmp_path / "spool", timeout_s=5) as made:
        yield made


async def flushed(client: BackgroundClient) -> bool:
    return await anyio.to_thread.run_sync(client.flush, 20)


async def stored_names(feed: Intake) -> list[str]:
    """Names of all stored actions, in the order in which they came in."""
    groups = await feed.store.open_groups(
        settled_before_ms=0, idle_before_ms=1 << 60, now_ms=1 << 60
    )
    records = await feed.store.group_records([group.id for group in groups])
    rows = sorted((r for each in records.values() for r in each), key=lambda r: r.record_id or 0)
    return [row.action for row in rows]


async def test_events_are_sent_without_waiting(path: Path, client: BackgroundClient) -> None:
    """Recording returns at once; a flush says when everything is on the daemon's disk."""
    async with open_feed(path.parent) as feed:
        ids = client.send(*[action(name=f"a{n}") for n in range(1_000)])
        assert len(set(ids)) == 1_000
        assert await flushed(client)
        assert await stored_names(feed) == [f"a{n}" for n in range(1_000)]
        assert client.counts().sent == 1_000


async def test_what_is_recorded_while_the_daemon_is_away_comes_later_in_order(
    path: Path, client: BackgroundClient, tmp_path: Path
) -> None:
    """It waits on disk, and what is recorded after it waits behind it."""
    for n in range(600):
        client.send(action(name=f"a{n}"))
    with anyio.fail_after(60):
        while client.counts().in_memory:
            await anyio.sleep(0.01)
    assert client.counts().spooled_bytes > 0
    assert f"no answer from {path}" in (client.problem or "")
    client.send(action(name="last"))
    async with open_feed(path.parent) as feed:
        assert await flushed(client)
        assert client.problem is None
        assert await stored_names(feed) == [*(f"a{n}" for n in range(600)), "last"]
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_killed_process_leaves_its_spool_to_the_next(path: Path, tmp_path: Path) -> None:
    """Segments of the dead are taken over, those of the living are not; half a line is passed over."""
    code = (
        "import sys, os, time; from honed.client import BackgroundClient\n"
        "client = BackgroundClient(sys.argv[1], spool=sys.argv[2])\n"
        "for n in range(50): client.action(f'a{n}', task_id='t1', tick=n)\n"
        "while client.counts().in_memory: time.sleep(0.01)\n"
        "print('spooled', flush=True); time.sleep(60)"
    )
    spool = tmp_path / "spool"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(spool)], stdout=subprocess.PIPE
    ) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == b"spooled\n"
        async with open_feed(path.parent, name="other.sock"):
            with BackgroundClient(path, spool=spool) as living:
                living.send(action())
                with anyio.fail_after(60):
                    while living.counts().in_memory:
                        await anyio.sleep(0.01)
                assert len(list(spool.iterdir())) == 2
        dying.send_signal(signal.SIGKILL)
    [segment] = sorted(spool.glob("*.spool"))[:1]
    with segment.open("ab") as torn:
        torn.write(b'{"type": "acti')
    async with open_feed(path.parent) as feed:
        with BackgroundClient(path, spool=spool) as next_one:
            assert await flushed(next_one)
            with anyio.fail_after(60):
                while next_one.counts().sent < 51:
                    await anyio.sleep(0.01)
        names = await stored_names(feed)
        assert names[:50] == [f"a{n}" for n in range(50)]
        assert names[50:] == ["look"]


async def test_a_restart_of_the_daemon_loses_and_doubles_nothing(
    path: Path, client: BackgroundClient
) -> None:
    """Events recorded before, during and after it are stored once each."""
    total = 0
    stop = threading.Event()

    def agent() -> None:
        nonlocal total
        while not stop.is_set():
            client.send(action(name=f"a{total}"))
            total += 1
            time.sleep(0.001)

    thread = threading.Thread(target=agent)
    thread.start()
    try:
        for _ in range(3):
            async with open_feed(path.parent):
                await anyio.sleep(0.3)
            await anyio.sleep(0.2)
    finally:
        stop.set()
        thread.join()
    async with open_feed(path.parent) as feed:
        assert await flushed(client)
        assert await stored_names(feed) == [f"a{n}" for n in range(total)]
    counts = client.counts()
    assert (counts.recorded, counts.rejected, counts.dropped_full) == (total, 0, 0)


@pytest.mark.feature("SE-129")
async def test_a_full_spool_and_a_full_memory_drop_and_count(path: Path, tmp_path: Path) -> None:
    """What is kept is the oldest, without a gap; nothing waits."""
    client = BackgroundClient(
        path, spool=tmp_path / "spool", spool_max_bytes=20_000, queue_max_bytes=20_000
    )
    for n in range(1_000):
        client.send(action(name=f"a{n}"))
    counts = client.counts()
    assert counts.recorded == 1_000
    assert counts.dropped_full > 500
    async with open_feed(path.parent) as feed:
        assert await flushed(client)
        names = await stored_names(feed)
    assert len(names) == 1_000 - client.counts().dropped_full
    client.close()


def test_a_full_disk_keeps_events_in_memory(path: Path, tmp_path: Path) -> None:
    """A batch that does not fit is taken back whole; the agent notices nothing."""
    code = (
        "import resource, signal, sys; from honed.client import BackgroundClient\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "client = BackgroundClient(sys.argv[1], spool=sys.argv[2], timeout_s=1)\n"
        "for n in range(100): client.action('x' * 50, task_id='t1', tick=n)\n"
        "assert not client.flush(1)\n"
        "counts = client.counts()\n"
        "assert counts.in_memory > 0 and counts.dropped_full == 0, counts\n"
        "client.close(0)\n"
        "assert client.counts().dropped_at_close == counts.in_memory, client.counts()\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    spool = tmp_path / "spool"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(spool)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    for segment in spool.glob("*.spool"):
        assert segment.read_bytes().endswith(b"}\n")


async def test_parent_and_child_of_a_fork_send_their_own(path: Path, tmp_path: Path) -> None:
    """The child has no thread, lock, connection or waiting event of the parent's; nothing is doubled."""
    code = (
        "import os, sys, warnings; from honed.client import BackgroundClient\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "client = BackgroundClient(sys.argv[1], spool=sys.argv[2])\n"
        "for n in range(200): client.action(f'p{n}', task_id='t1', tick=n)\n"
        "child = os.fork()\n"
        "mine = 'c' if child == 0 else 'q'\n"
        "for n in range(200): client.action(f'{mine}{n}', task_id='t1', tick=n)\n"
        "assert client.flush(20)\n"
        "client.close()\n"
        "if child == 0: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    async with open_feed(path.parent) as feed:
        done = await anyio.run_process(
            [sys.executable, "-c", code, str(path), str(tmp_path / "spool")], check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        names = await stored_names(feed)
        assert (await feed.store.stats()).num_duplicates == 0
    wanted = [f"{who}{n}" for who in "pqc" for n in range(200)]
    assert sorted(names) == sorted(wanted)
    for who in "pqc":
        assert [name for name in names if name[0] == who] == [f"{who}{n}" for n in range(200)]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
async def test_children_of_multiprocessing_send_what_they_recorded(
    path: Path, tmp_path: Path, method: str
) -> None:
    """Without a flush or a close; plain clients made before the fork work in both, on sockets of their own."""
    code = (
        "import multiprocessing, sys, warnings\n"
        "from honed.client import BackgroundClient, HonedClient\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "background, plain = BackgroundClient(sys.argv[1]), HonedClient(sys.argv[1])\n"
        "def work(who):\n"
        "    for n in range(100):\n"
        "        background.action(f'{who}b{n}', task_id='t1', tick=n)\n"
        "        if n % 10 == 0: plain.action(f'{who}p{n}', task_id='t1', tick=n)\n"
        "if __name__ == '__main__':\n"
        "    work('a')\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    children = [context.Process(target=work, args=(who,)) for who in 'cde']\n"
        "    for child in children: child.start()\n"
        "    work('z')\n"
        "    for child in children: child.join()\n"
        "    assert [child.exitcode for child in children] == [0, 0, 0]\n"
    )
    script = anyio.Path(tmp_path / "swarm.py")
    await script.write_text(code)
    async with open_feed(path.parent) as feed:
        done = await anyio.run_process([sys.executable, str(script), str(path)], check=False)
        assert done.returncode == 0, done.stderr.decode()
        names = await stored_names(feed)
        assert (await feed.store.stats()).num_duplicates == 0
    wanted = [f"{who}b{n}" for who in "aczde" for n in range(100)]
    wanted += [f"{who}p{n}" for who in "aczde" for n in range(0, 100, 10)]
    assert sorted(names) == sorted(wanted)


async def test_rejected_and_overlong_events_are_counted_with_their_reason(
    path: Path, client: BackgroundClient
) -> None:
    """They hold nothing up."""
    async with open_feed(path.parent, line_max=5_000) as feed:
        client.send(action(tick="soon"), action(target="x" * 6_000), action(name="good"))
        client.send(action(target="x" * LINE_MAX))
        assert await flushed(client)
        assert await stored_names(feed) == ["good"]
    assert client.counts().rejected == 3
    assert sorted(r.code for r in client.rejections) == ["invalid", "too_long", "too_long"]


async def test_a_client_without_a_spool_keeps_events_in_memory(path: Path) -> None:
    """They come when the daemon does; at close, what is left is counted as dropped."""
    client = BackgroundClient(path, timeout_s=1)
    client.send(*[action(name=f"a{n}") for n in range(300)])
    async with open_feed(path.parent) as feed:
        assert await flushed(client)
        assert await stored_names(feed) == [f"a{n}" for n in range(300)]
    client.send(action(), action())
    await anyio.to_thread.run_sync(client.close, 0.1)
    client.send(action())
    assert client.counts().dropped_at_close == 3


def test_an_interpreter_that_ends_leaves_its_events_in_the_spool(
    path: Path, tmp_path: Path
) -> None:
    """Without a close; the next process sends them."""
    code = (
        "import sys; from honed.client import BackgroundClient\n"
        "BackgroundClient(sys.argv[1], spool=sys.argv[2], timeout_s=1).action('a', task_id='t', tick=1)"
    )
    spool = tmp_path / "spool"
    subprocess.run([sys.executable, "-c", code, str(path), str(spool)], check=True, timeout=30)
    [segment] = spool.glob("*.spool")
    assert b'"action":"a"' in segment.read_bytes()
    assert segment.stat().st_mode & 0o777 == 0o600
