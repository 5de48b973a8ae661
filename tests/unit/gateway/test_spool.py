"""While the daemon is away, captured calls wait on disk: bounded, whatever becomes of the gateway, and
the daemon has each of them once.
"""

import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.client.spool import Spool
from honed.client.synchronous import HonedClient
from honed.domain.times import now_ms
from honed.gateway import capture, feed
from honed.gateway.capture import Captured
from honed.gateway.feed import FeedSender
from honed.gateway.shelf import Shelf
from tests.feed_parts import open_feed
from tests.unit.gateway.stub import answering, relaying
from tests.unit.gateway.test_feed import Feed, ack, call

pytestmark = pytest.mark.anyio

SPOOL_MAX = 64 << 20


@asynccontextmanager
async def gateway(
    folder: Path, *, max_bytes: int = SPOOL_MAX, socket: str = "feed.sock"
) -> AsyncIterator[Captured]:
    """The capturing part of a gateway, with its spool and the feed in `folder`."""
    captured = Captured("tiny")
    shelf = Shelf(folder / "spool", scenario="tiny", max_bytes=max_bytes)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(FeedSender(captured, lambda: folder / socket, shelf).run)
        yield captured
        tasks.cancel_scope.cancel()


async def until(done: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not done():
            await anyio.sleep(0.005)


async def emptied(captured: Captured) -> None:
    with anyio.fail_after(60):
        await captured.wait_empty()


async def kept(captured: Captured) -> None:
    with anyio.fail_after(60):
        await captured.wait_kept()


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "spool").glob("*.spool"))


def ids_in(lines: list[bytes]) -> list[str]:
    return [msgspec.json.decode(line)["event_id"] for line in lines]


async def test_calls_wait_on_disk_for_the_daemon(tmp_path: Path) -> None:
    """They leave memory at once, and are sent, in order and followed by newer ones, when it is there."""
    calls = [call(str(i)) for i in range(300)]
    daemon = Feed(tmp_path / "feed.sock", ack)
    async with gateway(tmp_path) as captured:
        for each in calls[:200]:
            captured.offer(each)
        await kept(captured)
        counts = captured.counts()
        assert (counts["spooled"], counts["queued"]) == (200, 0)
        assert counts["spooled_bytes"] == sum(each.stat().st_size for each in segments(tmp_path))
        assert 0 < counts["spooled_since_ms"] <= now_ms()
        async with daemon.open():
            for each in calls[200:]:
                captured.offer(each)
            await emptied(captured)
    assert ids_in(daemon.lines) == [each.receipt_id for each in calls]
    assert (captured.sent, captured.spooled) == (300, 0)
    counts = captured.counts()
    assert (counts["spooled_bytes"], counts["spooled_since_ms"]) == (0, 0)
    assert list((tmp_path / "spool").iterdir()) == []


async def test_a_gateway_that_is_killed_leaves_its_calls_to_the_next(tmp_path: Path) -> None:
    """With SIGKILL, in the middle: whatever it had put to disk is sent by the next one."""
    code = (
        "import sys, anyio\n"
        "from pathlib import Path\n"
        "from honed.gateway.capture import Captured\n"
        "from honed.gateway.feed import FeedSender\n"
        "from honed.gateway.shelf import Shelf\n"
        "from tests.unit.gateway.test_feed import call\n"
        "async def main():\n"
        "    folder = Path(sys.argv[1])\n"
        "    captured = Captured('tiny')\n"
        "    shelf = Shelf(folder / 'spool', scenario='tiny', max_bytes=1 << 20)\n"
        "    async with anyio.create_task_group() as tasks:\n"
        "        tasks.start_soon(FeedSender(captured, lambda: folder / 'feed.sock', shelf).run)\n"
        "        for i in range(50):\n"
        "            captured.offer(made := call(str(i)))\n"
        "            await captured.wait_kept()\n"
        "            print('kept', made.receipt_id, flush=True)\n"
        "        print('done', flush=True)\n"
        "anyio.run(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as dying:
        assert dying.stdout is not None
        told = [line.split() for line in iter(dying.stdout.readline, "done\n")]
        dying.send_signal(signal.SIGKILL)
    ids = [words[1] for words in told if words[0] == "kept"]
    assert len(ids) == 50
    daemon = Feed(tmp_path / "feed.sock", ack)
    async with daemon.open(), gateway(tmp_path) as captured:
        await until(lambda: captured.sent == 50)
    assert ids_in(daemon.lines) == ids


async def test_the_daemon_has_each_call_once(tmp_path: Path) -> None:
    """It knows by their ids those that it had stored before the gateway could hear of it."""
    async with gateway(tmp_path) as captured:
        for i in range(20):
            captured.offer(call(str(i)))
        await kept(captured)
    [segment] = segments(tmp_path)
    lines = segment.read_bytes().splitlines()
    async with open_feed(tmp_path) as intake:

        def send_some() -> None:
            with HonedClient(tmp_path / "feed.sock") as client:
                client.send_lines(lines[:7])

        await anyio.to_thread.run_sync(send_some)
        async with gateway(tmp_path) as captured:
            await until(lambda: captured.sent == 20)
        stats = await intake.store.stats()
    assert (stats.num_records, stats.num_duplicates) == (20, 7)


async def test_a_gateway_that_ends_puts_its_calls_to_disk(tmp_path: Path) -> None:
    """What was sent and not acknowledged, what waits in memory: none of it is lost."""
    daemon = Feed(tmp_path / "feed.sock", lambda number, line: [])
    calls = [call(str(i)) for i in range(31)]
    async with daemon.open(), gateway(tmp_path) as captured:
        for each in calls[:30]:
            captured.offer(each)
        await until(lambda: len(daemon.lines) >= 30)
        captured.offer(calls[30])
    patient = Feed(tmp_path / "feed.sock", ack)
    async with patient.open(), gateway(tmp_path) as captured:
        await until(lambda: captured.sent == 31)
    # not by what the other one got: on a machine that stalls it is sent some of it twice
    assert ids_in(patient.lines) == [each.receipt_id for each in calls]


async def test_a_daemon_that_hangs_is_as_one_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the lines and says nothing: they go to disk, and from there to it when it is well again."""
    monkeypatch.setattr(feed, "_LATE_S", 0.05)
    is_well = anyio.Event()

    def replies(number: int, line: bytes) -> list[dict[str, Any]]:
        return ack(number) if is_well.is_set() else []

    daemon = Feed(tmp_path / "feed.sock", replies)
    async with daemon.open(), gateway(tmp_path) as captured:
        captured.offer(call("first"))
        await until(lambda: captured.spooled == 1)
        captured.offer(call("second"))
        await until(lambda: captured.spooled == 2)
        is_well.set()
        daemon.break_off()
        await emptied(captured)
    assert captured.sent == 2


async def test_calls_that_come_too_fast_go_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that acknowledges now and then does not make the gateway's memory fill."""
    monkeypatch.setattr(feed, "_LATE_S", 0.05)
    monkeypatch.setattr(feed, "_WINDOW", 4)
    monkeypatch.setattr(capture, "BEHIND", 10)
    slow = Feed(tmp_path / "feed.sock", lambda number, line: ack(number) if number == 1 else [])
    async with slow.open(), gateway(tmp_path) as captured:
        for i in range(100):
            captured.offer(call(str(i)))
        await kept(captured)
        assert captured.spooled >= 98
        slow.replies = ack
        slow.break_off()
        await emptied(captured)
    assert captured.sent == 100


async def test_a_full_spool_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then memory fills, and then the newest calls are dropped and counted; the rest arrives in order."""
    monkeypatch.setattr(feed, "_WINDOW", 4)
    monkeypatch.setattr(feed, "_FULL_S", 0.01)
    calls = [call(str(i)) for i in range(40)]
    async with gateway(tmp_path, max_bytes=4_000) as captured:
        for each in calls:
            captured.offer(each)
        await until(lambda: "spool.failed" in capsys.readouterr().out)
        counts = captured.counts()
        assert counts["spooled"] > 0
        assert counts["spooled"] + counts["queued"] == 40
        assert counts["spool_failing"] == 1
        assert sum(path.stat().st_size for path in segments(tmp_path)) <= 4_000
        monkeypatch.setattr(capture, "QUEUE_MAX", 0)
        captured.offer(call("too much"))
        assert captured.dropped == 1
        daemon = Feed(tmp_path / "feed.sock", ack)
        async with daemon.open():
            await emptied(captured)
    assert ids_in(daemon.lines) == [each.receipt_id for each in calls]
    assert captured.counts()["spool_failing"] == 0


async def test_only_the_gateways_user_reads_what_waits(tmp_path: Path) -> None:
    """Nothing of it is redacted yet; also in a folder that others could enter before."""
    (tmp_path / "spool").mkdir(mode=0o755)
    async with gateway(tmp_path) as captured:
        captured.offer(call("a secret"))
        await kept(captured)
        [segment] = segments(tmp_path)
        assert b"a secret" in segment.read_bytes()
        assert stat.S_IMODE(segment.stat().st_mode) == 0o600
        assert stat.S_IMODE(segment.parent.stat().st_mode) == 0o700


async def test_a_disk_that_fails_leaves_calls_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is logged once; requests go on, and the daemon has the calls when it is back."""
    monkeypatch.setattr(feed, "_FULL_S", 0.01)
    (tmp_path / "spool").write_text("a file where the folder should be")
    async with gateway(tmp_path) as captured:
        for i in range(5):
            captured.offer(call(str(i)))
        await until(lambda: captured.counts()["queued"] == 5)
        await until(lambda: "spool.failed" in capsys.readouterr().out)
        daemon = Feed(tmp_path / "feed.sock", ack)
        async with daemon.open():
            await emptied(captured)
    assert (captured.sent, captured.dropped) == (5, 0)


async def test_a_disk_that_hangs_holds_up_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are answered while a write does not come back; what they said is kept when it does."""
    is_well = threading.Event()
    write = Spool.append

    def hang(spool: Spool, lines: list[bytes], *, sync: bool = True) -> None:
        assert is_well.wait(60)
        write(spool, lines, sync=sync)

    monkeypatch.setattr(Spool, "append", hang)
    shelf = Shelf(tmp_path / "spool", scenario="tiny", max_bytes=SPOOL_MAX)
    async with relaying(answering(), tmp_path) as front, anyio.create_task_group() as tasks:
        captured = front.lane.captured
        tasks.start_soon(FeedSender(captured, lambda: None, shelf).run)
        for _ in range(20):
            assert (await front.chat()).status_code == 200
        await until(lambda: captured.counts()["queued"] == 20)
        is_well.set()
        await kept(captured)
        assert captured.spooled == 20
        tasks.cancel_scope.cancel()


async def test_of_a_damaged_file_the_whole_events_are_sent(tmp_path: Path) -> None:
    """What a crash has cut off, and what a disk has made of a line, is set aside and counted."""
    async with gateway(tmp_path) as captured:
        for i in range(3):
            captured.offer(call(str(i)))
        await kept(captured)
    [segment] = segments(tmp_path)
    first, second, third = segment.read_bytes().splitlines(keepends=True)
    torn = second.replace(b'"type"', b'"ty\0e"')
    segment.write_bytes(first + torn + third + b'{"half":')
    daemon = Feed(tmp_path / "feed.sock", ack)
    async with daemon.open(), gateway(tmp_path) as captured:
        await emptied_after_start(captured, sent=2)
    assert daemon.lines == [first, third]
    assert captured.damaged == 2
    [broken] = (tmp_path / "spool").iterdir()
    assert sorted((b'{"half":', torn)) == sorted((broken.read_bytes()[:8], broken.read_bytes()[8:]))


async def emptied_after_start(captured: Captured, *, sent: int) -> None:
    """Wait until so many have arrived, and nothing waits."""
    await until(lambda: captured.sent == sent)
    await emptied(captured)


async def test_calls_that_come_while_the_spool_is_sent_wait_behind_it(tmp_path: Path) -> None:
    """Order holds, and a gateway killed just then would not lose them."""
    async with gateway(tmp_path) as captured:
        for i in range(5):
            captured.offer(call(str(i)))
        await kept(captured)
    is_well = anyio.Event()
    daemon = Feed(tmp_path / "feed.sock", lambda n, _: ack(n) if is_well.is_set() else [])
    async with daemon.open(), gateway(tmp_path) as captured:
        await until(lambda: len(daemon.lines) == 5)
        captured.offer(newer := call("newer"))
        await until(lambda: captured.spooled == 6)
        is_well.set()
        daemon.say(*ack(5))
        await emptied(captured)
    assert ids_in(daemon.lines)[-1] == newer.receipt_id
    assert (captured.sent, len(daemon.lines)) == (6, 6)
