"""What a scenario and learn model ask costs the same among few episodes of others and among many."""

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from honed.domain.outcome import Success
from honed.ports import EpisodeFilter
from honed.stores import SqlStore, open_store
from tests.contract.test_store import episode
from tests.feed_parts import call, close_all, failure, incoming, success
from tests.postgres import fetch
from tests.trigger_load import Query, fill, listening

pytestmark = pytest.mark.anyio

MINE: Final = ("airline", "chat")
LATER: Final = 10**13 - 2
_OTHERS: Final = (
    """
    INSERT INTO episodes (id, learn_model, scenario, number, source_group, group_id, outcome_type, score, outcome,
      num_records, created_at_ms, tags)
    SELECT '1' || substr('{zeros}' || i, length('{zeros}' || i) - 11) || '-a', 'chat', 'rail', i, 1000000 + i,
      'g', 'success', 1.0, '{{"type":"success"}}', 0, i, '{{}}' FROM ({numbers}) AS n
    """,
    """
    INSERT INTO outcomes (episode_id, outcome, source, at_ms)
    SELECT id, '{{"type":"success"}}', 'judge:m', created_at_ms FROM episodes WHERE scenario = 'rail'
    """,
)
_SQLITE_NUMBERS: Final = (
    "WITH RECURSIVE m(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM m WHERE i < {num})"
    " SELECT i FROM m"
)
_SERVER_NUMBERS: Final = "SELECT generate_series(1, {num}) AS i"


def others(num: int, numbers: str) -> list[str]:
    """Statements that make so many episodes of another scenario, each judged once, later than all of mine."""
    return [each.format(zeros="0" * 12, numbers=numbers.format(num=num)) for each in _OTHERS]


async def own(store: SqlStore) -> None:
    """Three attempts, of a group that others name too, of which a judge and somebody else have spoken."""
    for name in "abc":
        await store.append([incoming(call(task_id=name, group_id="g"))])
        await store.append([incoming(success(task_id=name, source="ann"))])
        await close_all(store)
        await store.append([incoming(failure(task_id=name, source="judge:m"))])


async def asked(store: SqlStore) -> list[Query]:
    """The queries of verifiers, alarms and trainings."""
    asks: list[Callable[[], Awaitable[Any]]] = [
        partial(store.rewards.episodes_after, *MINE, after="", until_ms=LATER, limit=9),
        partial(store.rewards.counted, *MINE, before_ms=LATER, limit=9),
        partial(store.rewards.opinions, *MINE, limit=50),
        partial(store.rewards.position, *MINE, "judge:m"),
        partial(store.lessons.material, *MINE, limit=9),
        partial(store.reviews.waiting, *MINE),
    ]
    with listening(store) as heard:
        found = [await ask() for ask in asks]
    assert len(found[0]) == len(found[1]) == 3
    return [query for query in heard if query.text.lstrip().startswith(("SELECT", "WITH"))]


async def test_the_episodes_of_others_are_not_walked_through(tmp_path: Path) -> None:
    """SQLite's own count of what it did, among 3,000 episodes of another scenario and among 30,000."""
    steps: dict[int, dict[str, int]] = {}
    for num in (3_000, 30_000):
        path = tmp_path / f"{num}.db"
        async with open_store(f"sqlite:///{path}") as store:
            await own(store)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA synchronous = OFF")
            for statement in others(num, _SQLITE_NUMBERS):
                db.execute(statement)
            db.commit()
        async with open_store(f"sqlite:///{path}") as store:
            queries = await asked(store)
        steps[num] = {query.text: _steps(path, query) for query in queries}
    for query, few in steps[3_000].items():
        assert steps[30_000][query] < 1.1 * few + 20, (query, few, steps[30_000][query])


@pytest.mark.parametrize(
    "named",
    [EpisodeFilter(task_id="task-000000000005"), EpisodeFilter(group_id="group-000000000005")],
    ids=["task", "group"],
)
async def test_an_episode_is_found_by_its_name_among_many_of_mine(
    tmp_path: Path, named: EpisodeFilter
) -> None:
    """Whatever else is asked of it, and by an import that looks whether it is there: a name leads to few of them."""
    path = tmp_path / "honed.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    fill(path, 6_000, waiting=9)
    only = msgspec.structs.replace(named, scenario="airline", learn_model="chat")
    async with open_store(f"sqlite:///{path}") as store:
        with listening(store) as heard:
            assert 1 <= len(await store.list_episodes(only)) <= 4
            assert 1 <= await store.count_episodes(only) <= 4
            made = episode(Success(), ms=5, task_id="new")
            assert await store.add_episode(made, [incoming(call(task_id="new"))])
        queries = [query for query in heard if query.text.startswith("SELECT")]
        assert len(queries) >= 6
        for query in queries:
            assert _steps(path, query) < 600, query


def _steps(path: Path, query: Query) -> int:
    took: list[None] = []
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.set_progress_handler(partial(took.append, None), 1)
        db.execute(query.text, query.values).fetchall()
    return len(took)


async def test_a_server_does_not_walk_through_them_either(postgres_url: str) -> None:
    """By its own account of the rows that it read in vain, among 30,000."""
    async with open_store(postgres_url) as store:
        await own(store)
        await fetch(postgres_url, *others(30_000, _SERVER_NUMBERS), "ANALYZE")
        queries = await asked(store)
        async with store._read() as db:
            for query in queries:
                plan = await db.exec_driver_sql("EXPLAIN (ANALYZE) " + query.text, query.values)
                lines = [str(row[0]) for row in plan]
                in_vain = [int(line.split()[-1]) for line in lines if "Rows Removed by" in line]
                assert sum(in_vain) < 200, (query.text, lines)


async def test_of_a_huge_group_the_first_ten_thousand_are_told(tmp_path: Path) -> None:
    """Whoever sends the events names the groups; the steps stay the same from there on."""
    steps = {}
    for num in (20_000, 40_000):
        path = tmp_path / f"{num}.db"
        async with open_store(f"sqlite:///{path}") as store:
            await own(store)
        with contextlib.closing(sqlite3.connect(path)) as db:
            for statement in others(num, _SQLITE_NUMBERS):
                db.execute(statement)
            db.commit()
        async with open_store(f"sqlite:///{path}") as store:
            with listening(store) as heard:
                assert len(await store.rewards.group(*MINE, "g")) == 3
                assert len(await store.rewards.group("rail", "chat", "g")) == 9_997
        steps[num] = sum(_steps(path, query) for query in heard if "SELECT" in query.text)
    assert steps[40_000] < 1.01 * steps[20_000]
