"""Room on disk: what the data take, what is free inside the database's file, and giving that back.

SQLite keeps the pages of deleted rows and uses them again. A database made by this version gives them back
a little at a time (`auto_vacuum = INCREMENTAL`; measured: 2 to 4 % more CPU for each event, no longer commits); an
older one does so once it was compacted. A PostgreSQL server manages its files by itself, and does not say what is free.
"""

from collections.abc import Callable
from typing import Final

import anyio.lowlevel
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.ports import Room
from honed.stores.dialects import is_postgres
from honed.stores.files import PAGE_SIZE
from honed.stores.transactions import Transactions

_STEP_BYTES: Final = 1 << 20
"""Given back in one transaction; events pass between two."""


async def room(db: AsyncConnection) -> Room | None:
    """What the data take; None where the database does not tell."""
    if is_postgres(db):
        return None
    size, pages, free = [
        int((await db.exec_driver_sql(f"PRAGMA {name}")).scalar_one())
        for name in ("page_size", "page_count", "freelist_count")
    ]
    return Room((pages - free) * size, free * size)


async def give_back(transactions: Transactions, on_step: Callable[[Room], None]) -> int:
    """Give free pages back to the disk, in small steps; how many bytes went.

    The file shrinks when its write-ahead log is emptied, which is the caller's to do.
    """
    given = 0
    while True:
        async with transactions.outside() as db:
            before = await room(db)
            if before is None or not before.free_bytes:
                return given
            await _vacuum(db, pages=_STEP_BYTES // PAGE_SIZE)
            after = await room(db)
        if after is None or after.size_bytes >= before.size_bytes:
            return given  # a database that was made without the bookkeeping for it
        given += before.size_bytes - after.size_bytes
        on_step(after)
        await anyio.lowlevel.checkpoint()


async def _vacuum(db: AsyncConnection, *, pages: int) -> None:
    """Free so many pages at the end of the file.

    The statement frees one each time that it is stepped, and its rows have no columns, so that `sqlite3`
    steps it once (seen with Python 3.11); a script is stepped to its end.
    """
    driver = (await db.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.executescript(f"PRAGMA incremental_vacuum({pages})")
