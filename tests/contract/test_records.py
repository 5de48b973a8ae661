"""Records by themselves, on every database."""

import os
from typing import Any

import pytest

from honed.domain.outcome import Success
from honed.domain.records import ActionRecord, LearnStatsRecord
from honed.domain.snapshot import SNAPSHOT_VERSION
from honed.ports import RecordFilter
from honed.stores import SqlStore
from tests.feed_parts import action, call, incoming, success

pytestmark = pytest.mark.anyio


async def fill(store: SqlStore) -> None:
    """Ten actions of three workers and two tasks, a call and a verdict; one every ten milliseconds."""
    events = [
        action(name=f"a{n}", worker_id=n % 3, task_id=f"t{n % 2}", session_id="s" if n else None)
        for n in range(10)
    ]
    events += [call(task_id="t1", group_id="g", receipt_id="r"), success(task_id="t1")]
    await store.append([incoming(e, received_ms=1_000 + 10 * n) for n, e in enumerate(events)])


async def ids(store: SqlStore, **fields: Any) -> list[int]:
    """Ids of the records that fit; the list and the records agree."""
    filter = RecordFilter(**fields)
    listed = [row.id for row in await store.records.list(filter)]
    assert listed == [record.record_id async for record in store.records.query(filter)]
    return listed


@pytest.mark.feature("SE-069")
async def test_record_ids_rise_in_the_order_of_the_events(store: SqlStore) -> None:
    """Across batches, whatever times the events name."""
    for n in (3, 1, 2):
        batch = [action(name=f"{n}{m}", timestamp_ms=9_000 - n) for m in range(3)]
        await store.append([incoming(event) for event in batch])
    records = [record async for record in store.records.query(RecordFilter())]
    names = [record.action for record in records if isinstance(record, ActionRecord)]
    assert names == [f"{n}{m}" for n in (3, 1, 2) for m in range(3)]
    numbers = [record.record_id or 0 for record in records]
    assert numbers == sorted(set(numbers))


@pytest.mark.feature("SE-070")
async def test_records_are_read_by_id_and_unknown_ones_skipped(store: SqlStore) -> None:
    """In the order of the question, more of them than one statement takes."""
    await fill(store)
    first, *_, last = await ids(store)
    found = await store.records.get([last, 9_999, first, *range(10_000, 11_200)])
    assert [record.record_id for record in found] == [last, first]
    assert await store.records.get([]) == []


@pytest.mark.feature("SE-071", "SE-072")
async def test_filters_of_records_hold_together(store: SqlStore) -> None:
    """Each field alone and all at once; counting agrees with listing."""
    await fill(store)
    every = await ids(store)
    assert len(every) == 12
    assert await ids(store, type="llm") == [every[10]]
    assert await ids(store, type="outcome") == [every[11]]
    assert await ids(store, worker_id=1) == [every[n] for n in (1, 4, 7)]
    assert await ids(store, task_id="t0") == [every[n] for n in (0, 2, 4, 6, 8)]
    assert await ids(store, group_id="g") == [every[10]]
    assert await ids(store, session_id="s") == every[1:10]
    assert await ids(store, since_ms=1_030, until_ms=1_050) == every[3:6]
    assert await ids(store, newest_first=True, limit=2, offset=1) == [every[10], every[9]]
    assert await ids(store, offset=10) == every[10:]
    together: dict[str, Any] = {
        "type": "action",
        "worker_id": 1,
        "task_id": "t1",
        "session_id": "s",
        "since_ms": 1_011,
        "until_ms": 1_070,
    }
    assert await ids(store, **together) == [every[7]]
    assert await ids(store, **together, group_id="g") == []
    assert await store.records.count(RecordFilter(**together)) == 1
    assert await store.records.count(RecordFilter(type="action", limit=3)) == 10


@pytest.mark.feature("SE-073")
async def test_records_are_listed_without_their_bodies(store: SqlStore) -> None:
    """Bodies that nobody could read do not disturb a list."""
    await fill(store)
    before = await store.records.list(RecordFilter())
    await spoil_bodies(store)
    assert await store.records.list(RecordFilter()) == before
    assert (before[10].type, before[10].task_id, before[10].receipt_id) == ("llm", "t1", "r")
    assert (before[3].worker_id, before[3].received_ms) == (0, 1_030)


@pytest.mark.feature("SE-043")
async def test_the_statistics_of_a_session_come_back_as_its_snapshot(store: SqlStore) -> None:
    """The newest of its own scenario; a session that told none has none."""

    def told(visits: int, **fields: Any) -> dict[str, Any]:
        return {
            "type": "learn_stats_snapshot",
            "timestamp_ms": visits,
            "scenario": "airline",
            "session_id": "s1",
            "outcome": {"type": "success", "score": 1.0},
            "total_ticks": 7,
            "total_actions": 9,
            "stats": {"actions": [["look", visits]]},
            **fields,
        }

    events = [told(1), told(2), told(3, session_id="s2"), told(4, scenario="rail")]
    await store.append([incoming(event) for event in events])
    records = [record async for record in store.records.query(RecordFilter(type="learn_stats"))]
    assert [type(record) for record in records] == [LearnStatsRecord] * 4
    snapshot = await store.records.snapshot("airline", "s1")
    assert snapshot is not None
    assert snapshot.stats == {"actions": [["look", 2]]}
    assert snapshot.version == SNAPSHOT_VERSION
    meta = snapshot.metadata
    assert (meta.scenario, meta.session_id, meta.outcome) == ("airline", "s1", Success(1.0))
    assert (meta.created_at_ms, meta.total_ticks, meta.total_actions) == (2, 7, 9)
    assert await store.records.snapshot("airline", "s3") is None


async def spoil_bodies(store: SqlStore) -> None:
    """Make every body unreadable."""
    async with store._write() as db:
        await db.exec_driver_sql(f"UPDATE records SET body = '{os.urandom(4).hex()}'")
