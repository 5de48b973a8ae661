"""Short transactions on SQLAlchemy, beside the writer thread.

Each is shielded from cancellation: a cancelled one would leave its connection in the middle of a
statement. Writers borrow the thread's turn; the database's own lock, taken at the start, keeps other
processes out.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from honed.domain.composition import PLAIN, Composition
from honed.errors import StoreError
from honed.stores.databases import Database
from honed.stores.writer import Writer


class Transactions:
    """Reading and writing transactions of one store."""

    def __init__(
        self,
        database: Database,
        engine: AsyncEngine,
        writer: Writer,
        composition: Composition = PLAIN,
    ) -> None:
        self.composition = composition
        engine = engine.execution_options(composition=composition)
        self._database = database
        self._faults = database.faults
        self._engine = engine.execution_options(**database.reading)
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
            except self._faults as error:
                raise self._failed("read", error) from error

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A writing transaction in the writer's turn; commits when the body ends."""
        with anyio.CancelScope(shield=True):
            try:
                async with self._writer.turn(), self._writing_engine.begin() as db:
                    yield db
            except self._faults as error:
                raise self._failed("written", error) from error

    @property
    def is_on_server(self) -> bool:
        """Whether the database is a server's, not a file of this process."""
        return self._engine.dialect.name == "postgresql"

    @asynccontextmanager
    async def outside(self, *, in_turn: bool = True) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that no transaction may hold; in the writer's turn if need be."""
        turn = self._writer.turn() if in_turn else nullcontext()
        with anyio.CancelScope(shield=True):
            try:
                async with turn, self._statement_engine.connect() as db:
                    yield db
            except self._faults as error:
                raise self._failed("written", error) from error

    def _failed(self, what: str, error: Exception) -> StoreError:
        # The driver's own words: SQLAlchemy's would repeat the statement with its values.
        cause = getattr(error, "orig", None) or error.__cause__ or error
        cause = cause.__cause__ or cause  # what the driver says below SQLAlchemy's adapter
        return StoreError(
            f"the store cannot be {what}: {type(cause).__name__}: {cause}",
            advice=self._database.advice(cause),
        )
