"""Where the database is: reading its URL; SQLite's file, made and connected to."""

import os
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio.to_thread
from sqlalchemy import AsyncAdaptedQueuePool, Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from honed.errors import ConfigError, StoreError
from honed.stores.batch import SqliteWriting, advice_of
from honed.stores.postgres.server import Server, is_postgres, parse_server
from honed.stores.writer import Writing

PAGE_SIZE: Final = 8192
"""Bytes; beats 4096 by 4 to 7 % for events of 1 KB. It must be set before the first table."""

BUSY_TIMEOUT_S: Final = 10.0
"""How long a writer waits for another process's transaction."""


class Place(NamedTuple):
    """A SQLite database: what `sqlite3.connect` takes."""

    name: str
    """A path, or the URI of a database in memory."""
    path: Path | None
    """None in memory."""

    @property
    def reading(self) -> dict[str, object]:
        """A transaction that reads sees one state anyway."""
        return {}

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What SQLite's errors come as."""
        return (SQLAlchemyError,)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the file; a database in memory lives as long as the context."""
        first = await anyio.to_thread.run_sync(open_first, self)
        try:
            yield
        finally:
            first.close()

    def writing(self, *, alone: bool) -> Writing:
        """The writer's connection."""
        return SqliteWriting(self.connect())

    def advice(self, error: BaseException) -> str | None:
        """What to do about an error of SQLite."""
        return advice_of(error)

    def url(self) -> URL:
        """The URL for SQLAlchemy's async engine."""
        query = {} if self.path else {"mode": "memory", "cache": "shared", "uri": "true"}
        database = self.name if self.path else self.name.partition("?")[0]
        return URL.create("sqlite+aiosqlite", database=database, query=query)

    def connect(self, *, check_same_thread: bool = True) -> sqlite3.Connection:
        """A connection in autocommit, with the settings of every writer."""
        # A prepared statement of 128 rows takes about 100 KB: keep some dozens, not hundreds.
        db = sqlite3.connect(
            self.name,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_S,
            uri=self.path is None,
            check_same_thread=check_same_thread,
            cached_statements=48,
        )
        # FULL syncs at each commit: that is what makes an ack outlive a power cut.
        db.execute("PRAGMA synchronous = FULL")
        # What is deleted or moved is overwritten with zeros, so that forgetting can be kept.
        db.execute("PRAGMA secure_delete = ON")
        return db

    def make_engine(self) -> AsyncEngine:
        """The engine, its connections set up as the store needs them."""
        engine = create_async_engine(
            self.url(),
            # SQLAlchemy's own choice in memory is one connection for all, which mixes transactions.
            poolclass=AsyncAdaptedQueuePool,
            pool_size=2,
            max_overflow=2,
            connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
        )

        @event.listens_for(engine.sync_engine, "connect")
        def _set_up(connection: object, _: object) -> None:
            cursor = connection.cursor()  # type: ignore[attr-defined]
            cursor.execute("PRAGMA synchronous = FULL")
            cursor.execute("PRAGMA secure_delete = ON")
            if self.path is None:
                # Connections to one database in memory lock whole tables; readers would fail at once.
                cursor.execute("PRAGMA read_uncommitted = 1")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            options = connection.get_execution_options()
            if options.get("isolation_level") == "AUTOCOMMIT":
                return
            # A deferred transaction that reads first and writes later fails at the upgrade,
            # whatever the busy timeout.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

        return engine


def parse_url(url: str) -> Place | Server:
    """The database that a URL names.

    Raises:
        ConfigError: it is not a URL, or not one of SQLite or PostgreSQL.
    """
    if is_postgres(url):
        return parse_server(url)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"database: {url.rpartition('@')[2]!r} is not a database URL",  # what is before it may be a password
            advice="write for example sqlite:////var/lib/honed/honed.db, or postgresql://host/database",
        ) from error
    if parsed.drivername not in ("sqlite", "sqlite+aiosqlite"):
        raise ConfigError(
            f"database: {parsed.drivername} is not supported, only sqlite and postgresql are",
            advice="write sqlite:///PATH or postgresql://USER@HOST/DATABASE",
        )
    if parsed.database in (None, "", ":memory:"):
        name = f"file:honed-{secrets.token_hex(8)}"
        return Place(f"{name}?mode=memory&cache=shared", None)
    path = Path(str(parsed.database)).absolute()
    return Place(str(path), path)


def open_first(place: Place) -> sqlite3.Connection:
    """Make the file (0600, in a folder of 0700) when it is new, and connect.

    A database in memory lives as long as the connection that is returned.

    Raises:
        StoreError: the file cannot be made, or is not a SQLite database.
    """
    try:
        if place.path is not None:
            place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its journal files the mode of the database.
            os.close(os.open(place.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            place.path.chmod(0o600)
        db = place.connect(check_same_thread=False)  # made in a thread, closed on the loop
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or it says nothing
        db.execute("PRAGMA journal_mode = WAL")
    except OSError as error:
        raise StoreError(f"the database {place.path} cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StoreError(f"the database {place.path} cannot be opened: {error}") from error
    return db
