"""Giving room back, and leaving no trace of what was removed, as each database does it.

Each function wants a connection without a transaction.
"""

from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from honed.stores.dialects import is_postgres
from honed.stores.tables import metadata

_VACUUM_MAX_S: Final = 24 * 3600.0
_TABLES: Final = ", ".join(sorted(metadata.tables))

SERVER_KEEPS: Final = (
    "pages of the server's files hold it until they are used again, or `honed cleanup --compact` is run",
    "the server's write-ahead log, its archives, standbys and backups are its operator's",
)
"""What is beyond our reach on a PostgreSQL server."""


async def scrub(db: AsyncConnection) -> bool:
    """Have the database let go of what was removed; False while a reader keeps SQLite from it.

    SQLite's deleted bytes are zeros by then, and its log is emptied into the database. PostgreSQL takes
    deleted rows out of its pages, for others to use.
    """
    if is_postgres(db):
        await _vacuum(db, f"VACUUM {_TABLES}")
        return True
    found = await db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return not found.one()[0]


async def rewrite(db: AsyncConnection) -> None:
    """Write the whole store anew without its gaps; nobody else can use it meanwhile."""
    if is_postgres(db):
        await _vacuum(db, f"VACUUM (FULL) {_TABLES}")
        return
    await db.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")  # holds from here on
    await db.exec_driver_sql("VACUUM")


async def _vacuum(db: AsyncConnection, statement: str) -> None:
    """Past SQLAlchemy, as other statements may not take so long."""
    connection: Any = (await db.get_raw_connection()).driver_connection
    await connection.execute(statement, timeout=_VACUUM_MAX_S)


async def size(db: AsyncConnection) -> int:
    """Bytes of the store, indexes included."""
    if is_postgres(db):
        sizes = (f"pg_total_relation_size('{name}')" for name in metadata.tables)
        return int((await db.exec_driver_sql(f"SELECT {' + '.join(sizes)}")).scalar_one())
    pages = (await db.exec_driver_sql("PRAGMA page_count")).scalar_one()
    return int(pages) * int((await db.exec_driver_sql("PRAGMA page_size")).scalar_one())
