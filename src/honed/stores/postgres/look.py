"""What can be said of a store on a server without changing it."""

from typing import Final

from msgspec import Struct

from honed.stores.postgres.server import Server, refused

_PATIENCE_S: Final = 2.0
_FACTS: Final = """
SELECT current_setting('server_version'), current_setting('fsync') = 'on',
  current_setting('full_page_writes') = 'on', pg_is_in_recovery(), to_regclass('schema_version') IS NOT NULL,
  EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) + objid::bigint = $1)
"""
_CONTENT: Final = """
SELECT (SELECT version FROM schema_version), (SELECT num_records FROM totals),
  (SELECT received_ms FROM records ORDER BY id DESC LIMIT 1),
  (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
   WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace($1))
"""


class Looked(Struct, frozen=True, kw_only=True):
    """A server and the store on it."""

    server_version: str
    is_durable: bool
    """Whether a commit outlives a crash of the server's host."""
    is_standby: bool
    has_daemon: bool
    """Whether a daemon works on the store, on this host or another."""
    schema: int | None = None
    """None: there is no store yet."""
    num_records: int = 0
    newest_ms: int | None = None
    size: int = 0


async def look(server: Server) -> Looked:
    """Read beside whoever writes it.

    Raises:
        StoreError: the server does not answer or refuses us; ConfigError: the URL cannot be used.
    """
    import asyncpg

    db = await server.connect(patience_s=_PATIENCE_S)
    try:
        facts = await db.fetchrow(_FACTS, server.lock_key("daemon"))
        assert facts is not None
        version, fsync, full_pages, is_standby, has_store, has_daemon = facts
        content = await db.fetchrow(_CONTENT, server.search_path) if has_store else None
    except (asyncpg.PostgresError, OSError) as error:
        raise refused(server, error) from error
    finally:
        await db.close()
    schema, num_records, newest_ms, size = content or (None, 0, None, 0)
    return Looked(
        server_version=version,
        is_durable=fsync and full_pages,
        is_standby=is_standby,
        has_daemon=has_daemon,
        schema=schema,
        num_records=num_records,
        newest_ms=newest_ms,
        size=int(size or 0),
    )
