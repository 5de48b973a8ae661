"""On order, what was captured until now is handed to the daemon at once."""

from pathlib import Path

import anyio
import pytest

from honed.gateway import feed
from honed.gateway.capture import Captured
from tests.unit.gateway.test_feed import Feed, ack, call
from tests.unit.gateway.test_spool import gateway, ids_in, kept, until

pytestmark = pytest.mark.anyio


async def test_what_waits_on_disk_is_handed_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is back, and the gateway would not have looked for it for a while."""
    daemon = Feed(tmp_path / "feed.sock", ack)
    calls = [call(str(i)) for i in range(30)]
    monkeypatch.setattr(feed, "_FIRST_RETRY_S", 600.0)
    monkeypatch.setattr(feed, "_LAST_RETRY_S", 600.0)
    async with gateway(tmp_path) as captured:
        for each in calls:
            captured.offer(each)
        await kept(captured)  # so it rests: that is when it puts calls to disk
        async with daemon.open():
            done = await captured.drained(60)
            assert (done.waited, done.left) == (30, 0)
            assert ids_in(daemon.lines) == [each.receipt_id for each in calls]


async def test_a_daemon_that_is_away_leaves_them_where_they_are(tmp_path: Path) -> None:
    """And the order says how many; also where nothing may wait on disk."""
    for max_bytes in (1 << 20, 0):
        folder = tmp_path / str(max_bytes)
        folder.mkdir()
        async with gateway(folder, max_bytes=max_bytes) as captured:
            for i in range(3):
                captured.offer(call(str(i)))
            done = await captured.drained(0.05)
            assert (done.waited, done.left) == (3, 3)


async def test_calls_that_come_later_are_not_waited_for(tmp_path: Path) -> None:
    """Else a busy gateway would never be done; and several may wait."""
    open_ = 0

    def replies(number: int, line: bytes) -> list[dict[str, object]]:
        return ack(number) if number <= open_ else []

    daemon = Feed(tmp_path / "feed.sock", replies)
    async with daemon.open(), gateway(tmp_path) as captured:
        for i in range(5):
            captured.offer(call(str(i)))
        await until(lambda: len(daemon.lines) == 5)
        done: list[int] = []

        async def drain() -> None:
            drained = await captured.drained(60)
            done.append(drained.left)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            tasks.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            captured.offer(call("later"))
            await until(lambda: len(daemon.lines) == 6)
            daemon.say(*ack(4))
            await until(lambda: captured.sent == 4)
            assert done == []
            daemon.say(*ack(5))
        assert done == [0, 0]
        assert captured.sent == 5


async def test_nothing_is_there_to_be_handed_over(tmp_path: Path) -> None:
    """The order is answered at once."""
    done = await Captured("tiny").drained(60)
    assert (done.waited, done.left) == (0, 0)


async def test_what_is_no_call_is_not_waited_for(tmp_path: Path) -> None:
    """Refused by the daemon, or none that can be told: it will never be there."""

    def replies(number: int, line: bytes) -> list[dict[str, object]]:
        return [{"type": "error", "code": "invalid", "message": "no", "line": number}]

    daemon = Feed(tmp_path / "feed.sock", replies)
    async with gateway(tmp_path) as captured:
        captured.offer(call("refused"))
        await kept(captured)
        async with daemon.open():
            done = await captured.drained(60)
            assert (done.left, captured.refused) == (0, 1)
