"""A store is opened from its URL, and closed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio

from honed.domain.composition import PLAIN, Composition
from honed.stores.databases import Database
from honed.stores.files import parse_url
from honed.stores.store import SqlStore
from honed.stores.transactions import Transactions
from honed.stores.writer import Writer


@asynccontextmanager
async def open_store(
    url: str,
    *,
    alone: bool = False,
    queue_size: int = 10_000,
    queue_bytes: int = 64 << 20,
    batch_max: int = 1_000,
    composition: Composition = PLAIN,
) -> AsyncIterator[SqlStore]:
    """Open the database, bring its schema up to date, start its writer; closing commits what waits.

    Args:
        url: `sqlite:///PATH`, `sqlite://` for a database in memory that ends with the context, or
            `postgresql://USER@HOST/DATABASE?schema=NAME`.
        alone: refuse to be the second daemon on a server's database; a file's folder has its own lock.
        queue_size: events that may wait for their commit.
        queue_bytes: bytes that may wait for their commit.
        batch_max: events in one commit at most.
        composition: how the verdicts on an episode become its outcome.

    Raises:
        ConfigError: the URL does not name a database that can be used.
        StoreError: the database cannot be opened, or another daemon works on it.
            SchemaError when a newer version wrote it.
    """
    database: Database = parse_url(url)
    async with database.opened():
        engine = database.make_engine()
        writer = Writer(
            partial(database.writing, alone=alone),
            queue_size=queue_size,
            queue_bytes=queue_bytes,
            batch_max=batch_max,
        )
        try:
            await writer.start()
            try:
                store = SqlStore(Transactions(database, engine, writer, composition), writer)
                await store.prepare()
                yield store
            finally:
                with anyio.CancelScope(shield=True):
                    await writer.close()
        finally:
            with anyio.CancelScope(shield=True):
                await engine.dispose()
