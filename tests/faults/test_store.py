"""The store under a damaged page, a foreign lock and a clock that is set back: told clearly, nothing gone."""

import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from honed.config import Config
from honed.doctor.patient import Patient
from honed.doctor.store import store as check_store
from honed.errors import StoreError
from honed.ports import EpisodeFilter
from honed.sink import Sink
from honed.stores import files as store_files
from honed.stores import open_store
from honed.stores.copies import check_copy, copy_database
from tests.feed_parts import CHAT, SECRET, action, incoming, line, success

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


def stored_ids(path: Path) -> set[str]:
    """The events that can be read, each by itself."""
    db = sqlite3.connect(path)
    found: set[str] = set()
    (newest,) = db.execute("SELECT max(id) FROM records").fetchone()
    for number in range(1, newest + 1):
        try:
            query = "SELECT event_id, body FROM records WHERE id = ?"
            found.update(row[0] for row in db.execute(query, (number,)))
        except sqlite3.DatabaseError:
            continue
    db.close()
    return found


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


async def test_a_damaged_page_is_told_and_costs_only_itself(tmp_path: Path) -> None:
    """Reads of it fail by name, doctor and backup say so, new events are taken, the copy has the rest."""
    path = tmp_path / "honed.db"
    url = f"sqlite:///{path}"
    events = [action(task_id=f"t{n}", target="x" * 900) for n in range(400)]
    async with open_store(url) as store:
        await store.append([incoming(event) for event in events])
        await store.keeping.scrub()
    copy_database(url, tmp_path / "before.db", quiet)
    content = bytearray(path.read_bytes())
    place = content.index(f'"event_id": "{events[200]["event_id"]}"'.encode())  # in its body
    page = place - place % store_files.PAGE_SIZE
    content[page : page + 64] = bytes(byte ^ 0xFF for byte in content[page : page + 64])
    path.write_bytes(content)
    (tmp_path / "secret.key").write_bytes(SECRET)
    found = check_store(Patient(Config(scenario="airline", data_dir=tmp_path)))
    assert found.status == "fail"
    assert "damaged" in found.text or "cannot be read" in found.text
    copy_database(url, tmp_path / "after.db", quiet)  # page by page: the fault comes along
    with pytest.raises(StoreError, match=r"damaged|cannot be read"):
        check_copy(tmp_path / "after.db")
    async with open_store(url) as store:
        groups = await store.open_groups(
            settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999, limit=1_000
        )
        with pytest.raises(StoreError, match="malformed"):
            await store.group_records([group.id for group in groups])
        new = action(task_id="new")
        assert await store.append([incoming(new)]) == ["stored"]
        assert (await store.stats()).num_records == 401
    sent = {event["event_id"] for event in events}
    left = stored_ids(path)
    assert new["event_id"] in left
    assert len(sent - left) <= 10, "only what was on the page"
    assert stored_ids(tmp_path / "before.db") == sent


async def test_a_lock_that_stays_refuses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender hears why and may send again; what was acknowledged before is there."""
    monkeypatch.setattr(store_files, "BUSY_TIMEOUT_S", 0.3)
    async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
        first, second = incoming(action(task_id="t1")), incoming(action(task_id="t2"))
        assert await store.append([first]) == ["stored"]
        other = sqlite3.connect(tmp_path / "honed.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked") as told:
            await store.append([second])
        assert (
            told.value.advice
            == "another program holds the database; end it and send the events again"
        )
        assert (await store.stats()).num_records == 1  # readers are not in its way
        other.execute("ROLLBACK")
        other.close()
        assert await store.append([first, second]) == ["duplicate", "stored"]


async def test_a_lock_that_ends_is_waited_for(tmp_path: Path) -> None:
    """Nobody hears of another program that is done in time."""
    async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
        other = sqlite3.connect(
            tmp_path / "honed.db", isolation_level=None, check_same_thread=False
        )
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        release.start()
        assert await store.append([incoming(action())]) == ["stored"]
        release.join()
        other.close()


async def test_a_clock_that_is_set_back_loses_no_attempt(tmp_path: Path) -> None:
    """Events go on, new attempts become episodes at once, those of 'later' when it is that late."""
    clock = 10 * HOUR_MS
    made: list[str | None] = []

    async def attempt(sink: Sink, task: str) -> None:
        told = await sink.ingest([line(action(task_id=task)), line(success(task_id=task))])
        assert told.stored == 2

    async def until(*tasks: str) -> None:
        with anyio.fail_after(60):
            while made != list(tasks):
                await anyio.sleep(0.01)

    async with (
        open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store,
        anyio.create_task_group() as tasks,
    ):
        sink = Sink(
            store,
            [CHAT],
            scenario="airline",
            secret=SECRET,
            settle=timedelta(minutes=1),
            idle=timedelta(0),
            on_episode=lambda episode: made.append(episode.task_id),
            now_ms=lambda: clock,
        )
        tasks.start_soon(sink.run)
        await attempt(sink, "before")
        clock -= HOUR_MS
        await attempt(sink, "after")
        assert made == []
        clock += 61_000
        await attempt(sink, "wakes the loop")
        await until("after")
        clock += HOUR_MS
        await attempt(sink, "wakes the loop again")
        await until("after", "wakes the loop", "before")
        assert (await store.stats()).num_records == 8
        assert await store.count_episodes(EpisodeFilter()) == 3
        tasks.cancel_scope.cancel()
