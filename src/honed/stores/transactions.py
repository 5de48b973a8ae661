"""Short transactions on SQLAlchemy, beside the writer thread.

Each is shielded from cancellation: a cancelled one would leave its connection in the middle of a
statement. Writers borrow the thread's turn; SQLite's own lock, taken at the start (`BEGIN
IMMEDIATE`), keeps other processes out.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from sqlalchemy import AsyncAdaptedQueuePool, Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from honed.errors import StoreError
from honed.stores.files import BUSY_TIMEOUT_S, Place
from honed.stores.writer import Writer


class Transactions:
    """Reading and writing transactions of one store."""

    def __init__(self, engine: AsyncEngine, writer: Writer) -> None:
        self._engine = engine
        self._writing_engine = engine.execution_options(writes=True)
        self._statement_engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writer = writer

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A reading transaction."""
        with anyio.CancelScope(shield=True):
            try:
                async with self._engine.connect() as db:
                    yield db
            except SQLAlchemyError as error:
                raise StoreError(f"the store cannot be read: {_cause(error)}") from error

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A writing transaction in the writer's turn; commits when the body ends."""
        with anyio.CancelScope(shield=True):
            try:
                async with self._writer.turn(), self._writing_engine.begin() as db:
                    yield db
            except SQLAlchemyError as error:
                raise StoreError(f"the store cannot be written: {_cause(error)}") from error

    @asynccontextmanager
    async def outside(self) -> AsyncIterator[AsyncConnection]:
        """A connection in the writer's turn for statements that no transaction may hold."""
        with anyio.CancelScope(shield=True):
            try:
                async with self._writer.turn(), self._statement_engine.connect() as db:
                    yield db
            except SQLAlchemyError as error:
                raise StoreError(f"the store cannot be written: {_cause(error)}") from error


def make_engine(place: Place) -> AsyncEngine:
    """The engine of a database, its connections set up as the store needs them."""
    engine = create_async_engine(
        place.url(),
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
        if place.path is None:
            # Connections to one database in memory lock whole tables; readers would fail at once.
            cursor.execute("PRAGMA read_uncommitted = 1")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT":
            return
        # A deferred transaction that reads first and writes later fails at the upgrade, whatever
        # the busy timeout.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")

    return engine


def _cause(error: SQLAlchemyError) -> str:
    """The driver's own words; SQLAlchemy's would repeat the statement with its values."""
    cause = error.__cause__ or getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}"
