"""Stores that former versions have written, with all that was in them: opened, kept whole, and worked with."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import asyncpg
import msgspec
import pytest

from honed.domain.outcome import Failure, Success
from honed.domain.run import Run
from honed.domain.verdict import Reach
from honed.ports import EpisodeFilter, FilePosition, Material, Remark, Review, Whose
from honed.stores import SqlStore, open_store
from honed.stores.migrations import NEWEST, STEPS
from honed.stores.postgres.schema import translated
from honed.stores.postgres.server import parse_server
from honed.stores.tables import metadata
from honed.triggers import Needs
from tests.contract.test_models import model
from tests.feed_parts import action, call, close_all, failure, incoming, success
from tests.postgres import fetch

pytestmark = pytest.mark.anyio

MINE: Final = ("airline", "chat")
Rows = dict[str, list[dict[str, Any]]]


class Old(NamedTuple):
    """A store as a former version left it."""

    url: str
    version: int
    rows: Rows
    """What was in it."""


def _columns(version: int) -> dict[str, list[str]]:
    """The columns of each table in that version."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for statement in (statement for step in STEPS[:version] for statement in step):
            db.execute(statement)
        tables = [
            name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables
        }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a store in which everything has happened."""
    path = tmp_path_factory.mktemp("written") / "honed.db"
    anyio.run(_write, f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return {
            table: [dict(row) for row in db.execute(f"SELECT * FROM {table}")]
            for table in metadata.tables
        }


async def _write(url: str) -> None:
    async with open_store(url) as store:
        await _work(store)


async def _work(store: SqlStore) -> None:
    await store.start_scenario(*MINE, now_ms=1)
    for n in range(5):
        group = {"group_id": "g"} if n < 2 else {}
        events = [call(task_id=f"t{n}", receipt_id=f"r{n}", **group), action(task_id=f"t{n}")]
        told = [success(0.5, task_id=f"t{n}", source="desk")] if n else []
        await store.append([incoming(event) for event in [*events, *told]])
    await close_all(store)
    await store.append([incoming(call(task_id="open")), incoming(failure(receipt_id="to come"))])
    position = FilePosition("/var/log/events.jsonl", 7, 100, b"head")
    await store.append([incoming(action(task_id="open"))], position=position)
    for number, state in enumerate(("failed", "done", "failed")):
        run = Run(
            id=f"run-{number}",
            scenario="airline",
            learn_model="chat",
            state="running",
            reason="count(5)",
            started_at_ms=10 * number + 10,
        )
        await store.add_run(run)
        ended = msgspec.structs.replace(run, state=state, ended_at_ms=10 * number + 15)
        await store.end_run(ended, trained_count=5 if state == "done" else None)
    await store.add_run(msgspec.structs.replace(run, id="run-9", started_at_ms=90))
    await store.add_model(model(1))
    assert await store.push_applied("airline", "airline@1", expected=None, max_history=5, now_ms=20)
    await store.append([incoming(failure(task_id="t1", source="desk"))])
    (first, *_) = await store.list_episodes(EpisodeFilter())
    await store.reviews.remark([Remark(episode_id=first.id, kind="drop", said_by="ann", at_ms=3)])
    material = Material((first.id,), num_new=1, num_changed=0, episode_count=5, reach=Reach(1, 1))
    await store.reviews.wait(
        Review(
            id="w", scenario="airline", learn_model="chat", reason="x", at_ms=4, material=material
        )
    )
    assert await store.rewards.position(*MINE, "judge:m")
    await store.lessons.settle_sides({b"n" * 16: True, b"m" * 16: False})
    gone = await store.keeping.find(Whose("task", "t4"))
    await store.keeping.remove(gone, forever=True)


@pytest.fixture(
    params=[
        *(pytest.param(("file", version), id=f"file-{version}") for version in range(1, NEWEST)),
        *(pytest.param(("server", version), id=f"server-{version}") for version in (1, 5, 9)),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int]:
    """Where the store is, and which version wrote it."""
    kind, version = request.param
    if kind == "file":
        return f"sqlite:///{tmp_path / 'honed.db'}", version
    return str(request.getfixturevalue("postgres_url")), version


@pytest.fixture
async def old(place: tuple[str, int], written: Rows) -> Old:
    return await _old(*place, written)


async def _old(url: str, version: int, written: Rows) -> Old:
    columns = _columns(version)
    rows = {
        table: [{name: row[name] for name in names} for row in written[table]]
        for table, names in columns.items()
    }
    statements = [
        *(statement for step in STEPS[:version] for statement in step),
        "DELETE FROM totals",
        *(["DELETE FROM removed"] if "removed" in columns else []),
        "CREATE TABLE schema_version (version INTEGER NOT NULL)",
        f"INSERT INTO schema_version VALUES ({version})",
    ]
    if url.startswith("sqlite:///"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            for statement in statements:
                db.execute(statement)
            for table, told in rows.items():
                marks = ", ".join("?" * len(columns[table]))
                values = [tuple(row.values()) for row in told]
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
            db.commit()
        return Old(url, version, rows)
    server = parse_server(url)
    connection = await server.connect()
    try:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {server.search_path}")
        for statement in statements:
            await connection.execute(translated(statement))
        for table, told in rows.items():
            await _copy(connection, table, columns[table], told)
    finally:
        await connection.close()
    return Old(url, version, rows)


async def _copy(
    db: asyncpg.Connection, table: str, columns: list[str], rows: list[dict[str, Any]]
) -> None:
    marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    names = ", ".join(columns)
    values = [tuple(row.values()) for row in rows]
    await db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", values)
    if "id" in columns:
        given = await db.fetchval(f"SELECT pg_get_serial_sequence('{table}', 'id')")
        newest = max((row["id"] for row in rows), default=0)
        if given and newest:  # it has counted along with the rows
            await db.execute(f"SELECT setval('{given}', {newest})")


async def _found(old: Old) -> Rows:
    """What is in the store now, of what was in it then."""
    found: Rows = {}
    for table, told in old.rows.items():
        names = list(told[0]) if told else []
        if not names:
            continue
        query = f"SELECT {', '.join(names)} FROM {table}"
        if old.url.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(old.url.removeprefix("sqlite:///"))) as db:
                rows = db.execute(query).fetchall()
        else:
            rows = await fetch(old.url, query)
        found[table] = [dict(zip(names, row, strict=True)) for row in rows]
    return found


def _sorted(rows: Rows) -> dict[str, list[str]]:
    return {table: sorted(repr(row) for row in told) for table, told in rows.items() if told}


async def test_nothing_is_lost_and_everything_goes_on(old: Old) -> None:
    """From every version that there was; what later ones keep beside is made from what was there."""
    async with open_store(old.url) as store:
        pass
    assert _sorted(await _found(old)) == _sorted(old.rows)
    async with open_store(old.url) as store:
        await _remembers(store, old)
        await _goes_on(store, old)


async def _remembers(store: SqlStore, old: Old) -> None:
    """What rules, reviews and verifiers ask of it."""
    num_changed = 1 if old.version >= 5 else 0
    needs = Needs(outcomes=9, period=timedelta(days=10))
    facts = await store.trigger_context(*MINE, now_ms=100, needs=needs)
    assert (facts.episode_count, facts.last_train_count, facts.changed_count) == (5, 5, num_changed)
    assert len(facts.runs) == 4
    assert facts.recent == (Failure("no"),) * num_changed
    rows = await store.list_episodes(EpisodeFilter())
    assert [row.task_id for row in rows] == ["t0", "t1", "t2", "t3"]
    outcomes = [row.outcome for row in rows]
    assert outcomes[1:] == [Failure("no"), Success(0.5), Success(0.5)]
    for row in rows:
        episode = await store.get_episode(row.id)
        assert len(episode.records) == row.num_records
        verdicts = (await store.provenance([row.id]))[row.id].verdicts
        assert [verdict.outcome for verdict in verdicts][-1:] == (
            [] if row.task_id == "t0" else [row.outcome]
        )
    assert [run.id for run in await store.list_runs("airline")] == [
        "run-9",
        "run-2",
        "run-1",
        "run-0",
    ]
    assert (await store.get_model("airline@1")).id == "airline@1"
    assert [applied.model_id for applied in await store.history("airline")] == ["airline@1"]
    if old.version >= 2:
        assert (await store.file_position("/var/log/events.jsonl")) is not None
    if old.version >= 9:
        assert await store.reviews.dropped([row.id for row in rows]) == {rows[0].id}
        assert (await store.reviews.waiting(*MINE)) is not None


async def _goes_on(store: SqlStore, old: Old) -> None:
    """Events, verdicts on what was there, runs, remarks, verifiers and removal."""
    rows = await store.list_episodes(EpisodeFilter())
    await store.append([incoming(success(task_id="t2", source="desk"))])
    assert (await store.get_episode(rows[2].id)).outcome == Success(1.0)
    await store.append([incoming(success(group_id="g", source="ann"))])
    assert (await store.get_episode(rows[0].id)).outcome == Success(1.0)
    await store.append([incoming(call(task_id="new", receipt_id="to come", group_id="g"))])
    made = await close_all(store, now_ms=10**12)
    assert sorted(episode.task_id or "" for episode in made) == ["new", "open"]
    late = await store.rewards.episodes_after(*MINE, after="", until_ms=10**13 - 2, limit=9)
    assert len(late) == 6
    assert len(await store.rewards.counted(*MINE, before_ms=10**13 - 2, limit=9)) == 6
    assert len(await store.rewards.group(*MINE, "g")) == 3
    assert (await store.lessons.material(*MINE, limit=9)).num_new == 2
    assert await store.reviews.remark(
        [Remark(episode_id=rows[3].id, kind="drop", said_by="bob", at_ms=9)]
    ) == [True]
    run = (await store.list_runs("airline"))[0]
    ended = msgspec.structs.replace(run, state="done", ended_at_ms=99)
    await store.end_run(ended, trained_count=7)
    facts = await store.trigger_context(*MINE, now_ms=100, needs=Needs(outcomes=9))
    assert (facts.count, facts.failures) == (0, 0)
    before = (await store.stats()).num_records
    await store.keeping.remove(await store.keeping.find(Whose("task", "t3")), forever=True)
    assert (await store.stats()).num_records == before
    assert len(await store.list_episodes(EpisodeFilter())) == 5


_NUM: Final = sum(map(len, STEPS[5:]))
_KILLED: Final = """
import os, signal, sys
import anyio
from honed.stores import migrations, open_store

left = int(sys.argv[2])

def counting(db):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return known(db)

known, migrations.is_postgres = migrations.is_postgres, counting

async def main():
    async with open_store(sys.argv[1]):
        print("opened")

anyio.run(main)
"""


@pytest.mark.parametrize("at", [2, _NUM])
async def test_a_kill_in_the_middle_leaves_the_former_store(
    lasting_url: str, written: Rows, at: int
) -> None:
    """The next start takes all steps again and finds everything."""
    old = await _old(lasting_url, 5, written)
    command = [sys.executable, "-c", _KILLED, old.url, str(at)]
    child = subprocess.run(command, capture_output=True, timeout=120)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    async with open_store(old.url) as store:
        await _remembers(store, old)
        await _goes_on(store, old)
