"""Episodes by the hundred and the thousand, and what an episode's transaction holds; on every database."""

from typing import Any

import anyio
import pytest

from honed.domain.episode import Episode
from honed.domain.outcome import Failure, Success, Timeout
from honed.errors import NotFoundError, StoreError, ValidationError
from honed.ports import Closing, EpisodeFilter, IncomingEvent, RecordFilter
from honed.stores import SqlStore
from tests.contract.test_records import spoil_bodies
from tests.contract.test_store import episode
from tests.feed_parts import action, call, close_all, incoming, success

pytestmark = pytest.mark.anyio


@pytest.mark.feature("SE-060", "SE-063")
async def test_of_a_thousand_episodes_added_at_once_none_is_lost(store: SqlStore) -> None:
    """Each is there with its records, those that have some, and is counted once."""
    made = [episode(Success(), ms=n, task_id=f"t{n}") for n in range(1_000)]

    async def add(one: Episode, *lines: IncomingEvent) -> None:
        assert await store.add_episode(one, lines)

    async with anyio.create_task_group() as tasks:
        for n, one in enumerate(made):
            lines = () if n % 10 else (incoming(call(task_id=one.task_id)),)
            tasks.start_soon(add, one, *lines)
    rows = await store.list_episodes(EpisodeFilter())
    assert [row.id for row in rows] == [one.id for one in made]
    assert [row.num_records for row in rows] == [0 if n % 10 else 1 for n in range(1_000)]
    assert await store.count_episodes(EpisodeFilter(outcomes=frozenset({"success"}))) == 1_000
    stats = await store.stats()
    assert (stats.num_episodes, stats.num_records) == (1_000, 100)
    state = await store.start_scenario("airline", "chat", now_ms=1)
    assert (state.episode_count, state.success_count) == (1_000, 1_000)


@pytest.mark.feature("SE-064")
async def test_listing_ten_thousand_episodes_reads_no_record(store: SqlStore) -> None:
    """Records that nobody could read do not disturb the list; the episode itself then says so."""
    await store.append([incoming(action())])
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    records = tuple((await store.group_records([group.id]))[group.id])
    made = [episode(ms=n, task_id=f"t{n}") for n in range(10_000)]
    whole = tuple(_with(one, records) for one in made)
    assert await store.close_groups([Closing(group.id, whole, 1)]) == {group.id}
    await spoil_bodies(store)
    rows = await store.list_episodes(EpisodeFilter(scenario="airline"))
    assert [row.id for row in rows] == [one.id for one in made]
    assert {row.num_records for row in rows} == {1}
    assert await store.count_episodes(EpisodeFilter()) == 10_000
    with pytest.raises(StoreError, match="record 1 cannot be read"):
        await store.get_episode(made[0].id)


@pytest.mark.feature("SE-065", "SE-063")
async def test_all_filters_of_episodes_at_once(store: SqlStore) -> None:
    """One episode fits; with any one field changed, none does."""
    for n, outcome in enumerate([Success(0.5), Success(0.9), Failure("x"), Timeout(0.9)]):
        for worker in (1, 2):
            one = episode(
                outcome, ms=100 * n + worker, task_id=f"t{n}", group_id="g", worker_id=worker
            )
            await store.add_episode(one, [])
    fits: dict[str, Any] = {
        "learn_model": "chat",
        "scenario": "airline",
        "outcomes": frozenset({"success", "timeout"}),
        "min_score": 0.8,
        "since_ms": 100,
        "until_ms": 150,
        "worker_id": 2,
        "task_id": "t1",
        "group_id": "g",
    }
    [row] = await store.list_episodes(EpisodeFilter(**fits))
    assert (row.task_id, row.worker_id, row.outcome) == ("t1", 2, Success(0.9))
    others: dict[str, Any] = {
        "learn_model": "other",
        "scenario": "rail",
        "outcomes": frozenset({"failure"}),
        "min_score": 0.95,
        "since_ms": 103,
        "until_ms": 101,
        "worker_id": 3,
        "task_id": "t0",
        "group_id": "h",
    }
    assert others.keys() == fits.keys()
    for name, other in others.items():
        assert await store.count_episodes(EpisodeFilter(**fits | {name: other})) == 0, name
        without = {key: value for key, value in fits.items() if key != name}
        assert await store.count_episodes(EpisodeFilter(**without)) >= 1, name


@pytest.mark.feature("SE-066")
async def test_pages_of_a_list_neither_overlap_nor_miss(store: SqlStore) -> None:
    """Forwards and backwards, whatever the size of a page."""
    made = [episode(ms=n // 3, task_id=f"t{n}") for n in range(25)]
    for one in made:
        await store.add_episode(one, [])
    for size in (1, 7, 25, 40):
        for newest_first in (False, True):
            seen: list[str] = []
            while page := await store.list_episodes(
                EpisodeFilter(limit=size, offset=len(seen), newest_first=newest_first)
            ):
                seen += [row.id for row in page]
            every = [one.id for one in made]
            assert seen == (every[::-1] if newest_first else every)


@pytest.mark.feature("SE-067")
async def test_an_episode_and_its_records_are_stored_together_or_not_at_all(
    store: SqlStore,
) -> None:
    """The last of its events is in conflict: nothing of the others stays, and the next try succeeds."""
    await store.append([incoming(action(event_id="taken"))])
    good = [incoming(call(task_id="t9")), incoming(success(task_id="t9"))]
    conflict = incoming(action(event_id="taken", name="jump", task_id="t9"))
    one = episode(Success(), task_id="t9")
    with pytest.raises(ValidationError, match="taken"):
        await store.add_episode(one, [*good, conflict])
    assert await store.records.count(RecordFilter(task_id="t9")) == 0
    assert await store.count_episodes(EpisodeFilter()) == 0
    with pytest.raises(NotFoundError):
        await store.get_episode(one.id)
    stats = await store.stats()
    assert (stats.num_records, stats.num_episodes, stats.open_groups) == (1, 0, 1)
    assert await store.add_episode(one, good)
    assert len((await store.get_episode(one.id)).records) == 2


@pytest.mark.feature("SE-068")
async def test_an_episode_whose_record_is_gone_says_so(store: SqlStore) -> None:
    """By its id, with what should be there and what is."""
    await store.append([incoming(action()), incoming(call(task_id="t1"))])
    [made] = await close_all(store)
    async with store._write() as db:
        await db.exec_driver_sql("DELETE FROM records WHERE type = 'llm'")
    with pytest.raises(StoreError, match=f"episode {made.id} has 2 records, 1 of them are stored"):
        await store.get_episode(made.id)
    [row] = await store.list_episodes(EpisodeFilter())
    assert row.id == made.id


@pytest.mark.feature("SE-141")
async def test_what_is_counted_is_what_is_stored(store: SqlStore) -> None:
    """Through repeats, conflicts, closed groups, imported episodes and a refused one."""
    first = action(event_id="e1")
    await store.append([incoming(first), incoming(first), incoming(action(event_id="e1", tick=9))])
    await store.append([incoming(action(task_id=f"t{n}")) for n in range(5)])
    await close_all(store)
    await store.add_episode(episode(task_id="t9"), [incoming(call(task_id="t9"))])
    assert not await store.add_episode(episode(task_id="t9"), [incoming(call(task_id="t9"))])
    await store.append([incoming(success(task_id="t9"))])
    stats = await store.stats()
    assert stats.num_records == await store.records.count(RecordFilter()) == 8
    assert stats.num_episodes == await store.count_episodes(EpisodeFilter()) == 6
    assert (stats.num_duplicates, stats.num_conflicts) == (1, 1)


def _with(one: Episode, records: Any) -> Episode:
    return Episode(
        id=one.id,
        learn_model=one.learn_model,
        records=records,
        metadata=one.metadata,
        task_id=one.task_id,
    )
