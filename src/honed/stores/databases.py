"""What the store asks of its database, whichever it is."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from honed.stores.writer import Writing


class Database(Protocol):
    """A database that a URL names; `files.Place` and `postgres.Server` are the two."""

    @property
    def path(self) -> Path | None:
        """The file, if it is one on this machine."""

    @property
    def reading(self) -> Mapping[str, object]:
        """SQLAlchemy's options of a reading transaction, which sees one state of the store."""

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What the driver raises, itself or through SQLAlchemy."""

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Make what is missing, check that it will do, and keep it while the context is open."""

    def make_engine(self) -> AsyncEngine:
        """The engine; a transaction with the option `writes` holds the database's lock from its begin."""

    def writing(self, *, alone: bool) -> Writing:
        """The writer's connection, made in its thread; `alone` refuses to be the second daemon."""

    def advice(self, error: BaseException) -> str | None:
        """What to do about an error of the driver."""
