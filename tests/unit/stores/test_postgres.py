"""What is PostgreSQL's own: URLs, one daemon at a time, ids that it cannot hold, its schema, its errors."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

from honed.domain.ids import EpisodeIds
from honed.errors import ConfigError, SchemaError, StoreError, ValidationError
from honed.stores import open_store
from honed.stores.copies import copy_database
from honed.stores.files import parse_url
from honed.stores.migrations import NEWEST
from honed.stores.postgres import server as server_module
from honed.stores.postgres.look import look
from honed.stores.postgres.server import Server, UnreachableError, parse_server
from honed.stores.tables import metadata
from tests.feed_parts import action, close_all, incoming
from tests.postgres import fetch, with_schema

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "dsn", "shown"),
    [
        (
            "postgresql://honed@db/feeds",
            "postgresql://honed@db/feeds",
            "postgresql://honed@db/feeds?schema=honed",
        ),
        (
            "postgres://honed:hunter2@db:5433/feeds?schema=rail&sslmode=require",
            "postgresql://honed:hunter2@db:5433/feeds?sslmode=require",
            "postgresql://honed@db:5433/feeds?sslmode=require&schema=rail",
        ),
        (
            "postgresql+asyncpg:///feeds?host=/run/postgresql&user=honed&password=hunter2",
            "postgresql:///feeds?host=%2Frun%2Fpostgresql&user=honed&password=hunter2",
            "postgresql:///feeds?host=/run/postgresql&user=honed&schema=honed",
        ),
    ],
)
def test_a_url_names_server_database_and_schema(url: str, dsn: str, shown: str) -> None:
    """In libpq's forms; what is shown holds no password."""
    server = parse_server(url)
    assert (server.dsn, server.shown) == (dsn, shown)
    assert "hunter2" not in repr(server)


@pytest.mark.parametrize(
    "url", ["postgresql://db/x?schema=", f"postgresql://db/x?schema={'s' * 64}"]
)
def test_a_schema_that_no_server_takes_is_refused(url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigError, match="cannot name a schema"):
        parse_url(url)


async def test_a_url_that_asyncpg_cannot_use_is_a_wrong_config() -> None:
    """Nobody is asked again and again."""
    with pytest.raises(ConfigError, match="cannot be used"):
        await parse_server("postgresql://h:1/x?sslmode=perhaps").connect()


async def test_a_server_that_is_away_is_told_with_advice(tmp_path: Path) -> None:
    """The password is in no word of it."""
    server = parse_server(f"postgresql://u:hunter2@/db?host={tmp_path}")
    with pytest.raises(UnreachableError, match="does not answer") as caught:
        await server.connect(patience_s=0.2)
    assert caught.value.advice is not None
    assert "hunter2" not in f"{caught.value} {caught.value.advice}"


async def test_a_database_that_is_not_there_is_told_at_once(postgres_server: str) -> None:
    """With the command that makes it."""
    url = urlsplit(postgres_server)._replace(path="/nowhere").geturl()
    with pytest.raises(StoreError, match="nowhere") as caught:
        async with open_store(url):
            pass
    assert "createdb" in str(caught.value.advice)


async def test_the_migrations_lead_to_the_tables(postgres_url: str) -> None:
    """The same columns, keys and indexes as on SQLite."""
    async with open_store(postgres_url):
        pass
    schema = parse_server(postgres_url).schema
    columns = await fetch(
        postgres_url,
        "SELECT table_name, column_name, is_nullable, data_type FROM information_schema.columns"
        f" WHERE table_schema = '{schema}' AND table_name <> 'schema_version'",
    )
    kinds = {
        "BigInteger": "bigint",
        "Integer": "bigint",
        "Text": "text",
        "Float": "double precision",
    }
    assert sorted(columns) == sorted(
        (
            table.name,
            column.name,
            "YES" if column.nullable else "NO",
            kinds.get(type(column.type).__name__, "bytea"),
        )
        for table in metadata.tables.values()
        for column in table.columns
    )
    indexes = await fetch(
        postgres_url, f"SELECT indexname FROM pg_indexes WHERE schemaname = '{schema}'"
    )
    expected = {f"{name}_pkey" for name in metadata.tables}
    expected |= {str(index.name) for table in metadata.tables.values() for index in table.indexes}
    assert {name for (name,) in indexes} == expected


async def test_a_newer_schema_is_refused_with_both_numbers(postgres_url: str) -> None:
    """An older program must not touch what it does not know."""
    async with open_store(postgres_url):
        pass
    await fetch(postgres_url, "UPDATE schema_version SET version = 99")
    with pytest.raises(SchemaError, match=f"99.*{NEWEST}"):
        async with open_store(postgres_url):
            pass


async def test_a_second_daemon_is_refused_until_the_first_has_gone(postgres_url: str) -> None:
    """Whichever host it is on; commands work beside it, and so does a daemon on another schema."""
    async with open_store(postgres_url, alone=True) as store:
        with pytest.raises(StoreError, match="another daemon works on"):
            async with open_store(postgres_url, alone=True):
                pass
        async with open_store(postgres_url) as beside:
            await beside.append([incoming(action())])
        assert (await store.stats()).num_records == 1
        assert (await look(_server(postgres_url))).has_daemon
    async with open_store(postgres_url, alone=True):
        pass
    assert not (await look(_server(postgres_url))).has_daemon


async def test_two_programs_that_write_at_once_lose_nothing(postgres_url: str) -> None:
    """The store's lock puts their batches in a row; ids are given once, repeats are seen."""
    events = [incoming(action(task_id=f"t{n % 7}")) for n in range(300)]
    told: list[str] = []

    async def send(store: object, part: int) -> None:
        for start in range(0, 300, 10):
            told.extend(await store.append(events[start : start + 10]))  # type: ignore[attr-defined]
            await anyio.sleep(0)

    async with (
        open_store(postgres_url) as one,
        open_store(postgres_url) as other,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send, one, 0)
        tasks.start_soon(send, other, 1)
    assert (told.count("stored"), told.count("duplicate")) == (300, 300)


async def test_ids_that_the_server_cannot_hold_are_refused_alone(postgres_url: str) -> None:
    """NUL, or longer than an index takes; the others of the batch are stored, and all bodies may hold NUL."""
    async with open_store(postgres_url) as store:
        events = [
            incoming(action(task_id="t\0")),
            incoming(action(name="do\0it", target="\0")),
            incoming(action(session_id="s" * 501)),
        ]
        assert await store.append(events) == ["refused", "stored", "refused"]
        [made] = await close_all(store)
        assert await store.distinct_actions("airline") == ["do\ufffdit"]
        [record] = (await store.get_episode(made.id)).actions
        assert (record.action, record.target) == ("do\0it", "\0")
        fresh = msgspec.structs.replace(made, id=EpisodeIds().next(), task_id="t2")
        with pytest.raises(ValidationError, match="NUL"):
            await store.add_episode(fresh, [incoming(action(task_id="x\0"))])
        assert (await store.stats()).num_records == 1


async def test_one_callers_fault_does_not_fail_the_others(postgres_url: str) -> None:
    """An event that neither side can express fails alone, whoever it was committed with."""
    bad = incoming(action())._replace(worker_id=1 << 70)
    results: dict[int, object] = {}
    async with open_store(postgres_url) as store:

        async def add(n: int) -> None:
            try:
                results[n] = await store.append([bad if n == 2 else incoming(action())])
            except StoreError as error:
                results[n] = error

        async with anyio.create_task_group() as tasks, store._writer.turn():
            for n in range(5):
                tasks.start_soon(add, n)
            await anyio.sleep(0)
        assert [results[n] for n in (0, 1, 3, 4)] == [["stored"]] * 4
        assert isinstance(results[2], StoreError)


async def test_a_program_that_holds_the_store_is_waited_for_and_then_told(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is acknowledged meanwhile; afterwards the same events are stored."""
    monkeypatch.setitem(server_module._SETTINGS, "lock_timeout", "100ms")
    server = parse_server(postgres_url)
    key = server.lock_key("writing")
    event = incoming(action())
    async with open_store(postgres_url) as store:
        other = await server.connect()
        await other.execute(f"SELECT pg_advisory_lock({key})")
        for wait in (store.append([event]), store.next_model_number("airline")):
            with pytest.raises(StoreError) as caught:
                await wait
            assert "another program holds the database" in str(caught.value.advice)
        await other.close()
        assert await store.append([event]) == ["stored"]
        assert await store.next_model_number("airline") == 1


async def test_names_are_sorted_by_their_bytes(postgres_url: str) -> None:
    """As on SQLite, whatever language the database was made for."""
    async with open_store(postgres_url) as store:
        names = ["b", "B", "a-b", "ab", "Ä", "a_b"]
        await store.append([incoming(action(name=name)) for name in names])
        await close_all(store)
        assert await store.distinct_actions("airline") == sorted(names)


async def test_a_backup_says_what_to_do_instead(tmp_path: Path, postgres_url: str) -> None:
    """A server's store is no file."""
    with pytest.raises(StoreError, match="on a server") as caught:
        copy_database(postgres_url, tmp_path / "copy.db", lambda done, total: None)
    assert "pg_dump" in str(caught.value.advice)


async def test_looking_changes_nothing(postgres_url: str) -> None:
    """A schema that is not there is not made."""
    found = await look(_server(postgres_url))
    assert (found.schema, found.num_records) == (None, 0)
    async with open_store(postgres_url) as store:
        await store.append([incoming(action())])
        found = await look(_server(postgres_url))
    assert (found.schema, found.num_records, found.newest_ms) == (NEWEST, 1, 1_000)
    assert found.size > 8192


async def test_schemas_of_one_database_are_stores_of_their_own(
    postgres_server: str, postgres_url: str
) -> None:
    """Nothing of one is seen in the other."""
    other_url = with_schema(postgres_server, f"{parse_server(postgres_url).schema}_b")
    async with open_store(postgres_url) as one, open_store(other_url) as other:
        await one.append([incoming(action())])
        assert ((await one.stats()).num_records, (await other.stats()).num_records) == (1, 0)
    await fetch(other_url, f"DROP SCHEMA {parse_server(other_url).search_path} CASCADE")


def _server(url: str) -> Server:
    return parse_server(url)


def test_a_daemon_on_a_file_loads_nothing_of_it() -> None:
    """Driver and dialect cost memory that only a store on a server needs."""
    code = "import honed.daemon, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "honed.daemon" in loaded
    assert not loaded & {"asyncpg", "sqlalchemy.dialects.postgresql"}
