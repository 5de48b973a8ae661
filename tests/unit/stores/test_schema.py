"""Schema, files and URLs."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from honed.errors import ConfigError, SchemaError, StoreError
from honed.stores import open_store
from honed.stores.files import parse_url
from honed.stores.migrations import NEWEST, STEPS
from honed.stores.tables import metadata
from tests.feed_parts import action, close_all, failure, incoming

pytestmark = pytest.mark.anyio


async def test_the_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    """Both describe the same columns, keys and indexes."""
    migrated = sqlite3.connect(tmp_path / "migrated.db")
    for statements in STEPS:
        for statement in statements:
            migrated.execute(statement)
    engine = create_engine(f"sqlite:///{tmp_path / 'described.db'}")
    metadata.create_all(engine)
    engine.dispose()
    described = sqlite3.connect(tmp_path / "described.db")
    assert _schema(migrated) == _schema(described)
    migrated.close()
    described.close()


def _schema(db: sqlite3.Connection) -> dict[str, str]:
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: "".join(sql.split()) for name, sql in rows}


@pytest.mark.feature("SE-075")
async def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """An older program must not touch what it does not know."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with open_store(url):
        pass
    db = sqlite3.connect(tmp_path / "honed.db")
    db.execute("UPDATE schema_version SET version = 99")
    db.commit()
    db.close()
    with pytest.raises(SchemaError, match=f"99.*{NEWEST}"):
        async with open_store(url):
            pass


async def test_opening_again_keeps_everything(tmp_path: Path) -> None:
    """Migrations run once."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with open_store(url) as store:
        await store.append([incoming(action())])
    async with open_store(url) as store:
        assert (await store.stats()).num_records == 1


async def test_a_late_outcome_is_finished_after_a_crash(tmp_path: Path) -> None:
    """A process killed between the commit of a verdict and its effect is caught up at the start."""
    url = f"sqlite:///{tmp_path / 'honed.db'}"
    async with open_store(url) as store:
        await store.append([incoming(action())])
        [made] = await close_all(store)
        await store._writer.append([incoming(failure("late", task_id="t1"))])
        assert (await store.get_episode(made.id)).outcome == made.outcome
    async with open_store(url) as store:
        assert (await store.get_episode(made.id)).outcome != made.outcome


async def test_files_are_private(tmp_path: Path) -> None:
    """The folder is the owner's alone, and so are database and journals."""
    path = tmp_path / "data" / "honed.db"
    async with open_store(f"sqlite:///{path}") as store:
        await store.append([incoming(action())])
        assert path.parent.stat().st_mode & 0o777 == 0o700
        files = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert files == {"honed.db": 0o600, "honed.db-wal": 0o600, "honed.db-shm": 0o600}


async def test_a_commit_is_synced(tmp_path: Path) -> None:
    """WAL with synchronous=FULL on pages of 8 KiB: an ack outlives a power cut."""
    path = tmp_path / "honed.db"
    async with open_store(f"sqlite:///{path}"):
        db = parse_url(f"sqlite:///{path}").connect()
        found = [
            db.execute(f"PRAGMA {p}").fetchone()[0]
            for p in ("journal_mode", "synchronous", "page_size")
        ]
        db.close()
    assert found == ["wal", 2, 8192]


@pytest.mark.parametrize("url", ["mysql://h/db", "honed.db", "", "//u:hunter2@h/db"])
async def test_other_databases_are_refused(url: str) -> None:
    """The operator is told what this version can use."""
    with pytest.raises(ConfigError, match=r"sqlite|database URL") as caught:
        async with open_store(url):
            pass
    assert "hunter2" not in str(caught.value)


@pytest.mark.feature("SE-075")
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """With its path."""
    path = tmp_path / "honed.db"
    path.write_text("this is not a database, it is a long text" * 100)
    with pytest.raises(StoreError, match=str(path)):
        async with open_store(f"sqlite:///{path}"):
            pass
