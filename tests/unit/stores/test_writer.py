"""The writer thread: room, failure, death."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from honed.errors import StoreError
from honed.ports import IncomingEvent
from honed.stores import SqlStore, open_store
from honed.stores.batch import SqliteWriting
from honed.stores.files import Place
from honed.stores.writer import Writer
from tests.feed_parts import action, incoming

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(f"sqlite:///{tmp_path / 'honed.db'}", queue_size=10) as opened:
        yield opened


@pytest.mark.feature("SE-129")
async def test_a_full_queue_makes_the_caller_wait(store: SqlStore) -> None:
    """While another writer has the turn nothing is committed and only `queue_size` events get in."""
    added: list[int] = []

    async def add(n: int) -> None:
        await store.append([incoming(action())])
        added.append(n)

    async with anyio.create_task_group() as tasks, store._writer.turn():
        for n in range(25):
            tasks.start_soon(add, n)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert store._writer.depth == 10
        assert added == []
    assert sorted(added) == list(range(25))
    assert store._writer.depth == 0


@pytest.mark.feature("SE-129")
async def test_a_queue_full_of_bytes_makes_the_caller_wait(tmp_path: Path) -> None:
    """One event larger than the limit still gets in when nothing else waits."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with (
        open_store(url, queue_bytes=2_000) as store,
        anyio.create_task_group() as tasks,
        store._writer.turn(),
    ):
        for _ in range(3):
            tasks.start_soon(store.append, [incoming(action(target="x" * 5_000))])
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        assert store._writer.depth == 1


async def test_a_full_disk_fails_the_batch_and_is_left_behind(tmp_path: Path) -> None:
    """Nothing is acknowledged while there is no room; afterwards the same events are stored."""
    path = tmp_path / "honed.db"
    limited: list[sqlite3.Connection] = []
    place = Place(str(path), path)

    def connect() -> SqliteWriting:
        db = place.connect(check_same_thread=False)
        limited.append(db)
        return SqliteWriting(db)

    async with open_store(f"sqlite:///{path}") as store:
        thread = Writer(connect, queue_size=1_000, queue_bytes=1 << 20, batch_max=100)
        await thread.start()
        (pages,) = limited[0].execute("PRAGMA page_count").fetchone()
        limited[0].execute(f"PRAGMA max_page_count = {pages}")
        events = [incoming(action(target="x" * 900)) for _ in range(50)]
        with pytest.raises(StoreError, match="disk is full") as caught:
            await thread.append(events)
        assert caught.value.advice is not None
        assert (await store.stats()).num_records == 0
        limited[0].execute("PRAGMA max_page_count = 100000")
        assert set((await thread.append(events)).dispositions) == {"stored"}
        await thread.close()


async def test_one_callers_fault_does_not_fail_the_others(store: SqlStore) -> None:
    """Events that SQLite cannot take fail alone, whoever they were committed with."""
    bad = incoming(action())._replace(worker_id=1 << 70)
    results: dict[int, object] = {}

    async def add(n: int, event: IncomingEvent) -> None:
        try:
            results[n] = await store.append([event])
        except StoreError as error:
            results[n] = error

    async with anyio.create_task_group() as tasks, store._writer.turn():
        for n in range(5):
            tasks.start_soon(add, n, bad if n == 2 else incoming(action()))
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
    assert [results[n] for n in (0, 1, 3, 4)] == [["stored"]] * 4
    assert isinstance(results[2], StoreError)


async def test_a_dead_writer_hangs_nobody(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait and those who come later are told; reads go on."""

    def die(*_: object) -> None:
        raise SystemExit("gone")

    monkeypatch.setattr(SqliteWriting, "commit", die)
    with anyio.fail_after(60):
        failed = await asyncio.gather(
            *[store.append([incoming(action())]) for _ in range(30)], return_exceptions=True
        )
        assert [type(result) for result in failed] == [StoreError] * 30
        with pytest.raises(StoreError, match="writer has ended"), anyio.fail_after(60):
            await store.watch()  # and the daemon hears of it
        with pytest.raises(StoreError, match="writer has ended"):
            await store.append([incoming(action())])
        with pytest.raises(StoreError, match="writer has ended"):
            await store.next_model_number("airline")
        assert (await store.stats()).num_records == 0


async def test_what_was_queued_is_committed_before_the_store_closes(tmp_path: Path) -> None:
    """Closing waits for the commits; a later caller is told."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with anyio.create_task_group() as tasks:
        async with open_store(url) as store:
            for _ in range(20):
                tasks.start_soon(store.append, [incoming(action())])
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        with pytest.raises(StoreError, match="closed"):
            await store.append([incoming(action())])
    async with open_store(url) as store:
        assert (await store.stats()).num_records == 20


async def test_another_process_that_writes_is_waited_for(store: SqlStore, tmp_path: Path) -> None:
    """SQLite's lock keeps two processes apart; the events are committed when it is free."""
    other = sqlite3.connect(tmp_path / "honed.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.append, [incoming(action())])
        with anyio.move_on_after(0.2):
            while store._writer.depth == 0:
                await anyio.lowlevel.checkpoint()
        assert store._writer.depth == 1
        other.execute("COMMIT")
    other.close()
    assert (await store.stats()).num_records == 1
