"""Which server, database and schema a URL names, and a connection to it."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from honed.errors import ConfigError, StoreError
from honed.stores.writer import Writing

if TYPE_CHECKING:
    import asyncpg

PATIENCE_S: Final = 10.0
"""How long a server that is away is waited for, and another program's transaction."""
STATEMENT_S: Final = 60.0
"""A statement that takes longer counts as a lost connection: the server, or the way to it, hangs."""
_CONNECT_S: Final = 10.0
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 1.0
_OLDEST: Final = (13, 0)
_SCHEMA: Final = "honed"
"""Where nothing else is said; `Config` says the scenario."""

_SETTINGS: Final = {
    "application_name": "honed",
    "lock_timeout": f"{PATIENCE_S:g}s",
    # A session whose process is frozen, or whose host is gone, must not keep its locks.
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "jit": "off",
}

_ADVICE: Final = {
    "08": "is the server up, and may this host reach it? Events wait meanwhile",
    "28": "give the password in PGPASSWORD or a passfile, and look at the server's pg_hba.conf",
    "3D000": "make the database with `createdb`",
    "42501": "grant the user all rights on the database's schema, or CREATE on the database",
    "53100": "make room on the server's disk; the events may be sent again",
    "53300": "raise the server's max_connections, or end other programs; honed needs up to 5",
    "55P03": "another program holds the database; end it and send the events again",
    "25006": "the server is a standby: name the primary",
    "57": "the server is stopping or starting; events wait meanwhile",
    "XX001": "the server's data are damaged: stop the daemon and restore them",
    "XX002": "the server's data are damaged: `REINDEX`, or restore them",
}
"""What to do, by SQLSTATE or its class."""


class UnreachableError(StoreError):
    """The server does not answer."""


@dataclass(frozen=True, slots=True)
class Server:
    """A database on a server, and the schema in it that is the store."""

    dsn: str = field(repr=False)
    """What asyncpg takes; it may hold a password."""
    schema: str
    shown: str
    """The URL without secrets."""

    @property
    def path(self) -> None:
        """It is no file."""

    @property
    def reading(self) -> dict[str, object]:
        """What is read in one transaction fits together; nothing waits for it."""
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What asyncpg's errors come as: some of a lost connection do not pass through SQLAlchemy."""
        import asyncpg

        own = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        return (SQLAlchemyError, OSError, *own)

    @property
    def search_path(self) -> str:
        """The schema as a setting."""
        return '"' + self.schema.replace('"', '""') + '"'

    def lock_key(self, purpose: Literal["writing", "daemon"]) -> int:
        """The key of the store's advisory lock."""
        name = f"honed {purpose} {self.schema}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)

    async def connect(self, *, patience_s: float | None = None) -> "asyncpg.Connection":
        """A connection; a server that is starting, stopping or away is asked again.

        Raises:
            UnreachableError: it did not answer in time.
            StoreError: it refuses us.
            ConfigError: the URL cannot be used.
        """
        import asyncpg

        until = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        wait = _FIRST_WAIT_S
        while True:
            try:
                return await asyncpg.connect(
                    self.dsn,
                    timeout=_CONNECT_S,
                    command_timeout=STATEMENT_S,
                    server_settings=_SETTINGS | {"search_path": self.search_path},
                )
            except (asyncpg.InterfaceError, ValueError) as error:
                raise ConfigError(f"database: {self.shown} cannot be used: {error}") from error
            except (OSError, asyncpg.PostgresError) as error:
                if not is_lost(error):
                    raise refused(self, error) from error
                if time.monotonic() + wait > until:
                    raise unreachable(self, error) from error
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def make_engine(self) -> AsyncEngine:
        """The engine; a connection that was lost is noticed, and made anew, before it is used."""
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.connect,
            pool_size=2,
            max_overflow=2,
            pool_pre_ping=True,
        )

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            if connection.get_execution_options().get("writes"):
                key = self.lock_key("writing")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({key})")

        return engine

    def writing(self, *, alone: bool) -> Writing:
        """The writer's connection."""
        from honed.stores.postgres.writing import PostgresWriting

        return PostgresWriting(self, alone=alone)

    def advice(self, error: BaseException) -> str | None:
        """What to do about an error of the server or of asyncpg."""
        return advice_of(error)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Look whether the server will do, and make the schema where there is none.

        Raises:
            ConfigError: the server or its database cannot hold a store.
            StoreError: it does not answer, or the schema may not be made.
        """
        await self._prepare()
        yield

    async def _prepare(self) -> None:
        import asyncpg

        db = await self.connect()
        try:
            if db.get_server_version()[:2] < _OLDEST:
                found = await db.fetchval("SHOW server_version")
                raise ConfigError(
                    f"database: {self.shown} is PostgreSQL {found}, expected {_OLDEST[0]} or newer"
                )
            if (encoding := await db.fetchval("SHOW server_encoding")) != "UTF8":
                raise ConfigError(
                    f"database: {self.shown} has the encoding {encoding}, expected UTF8",
                    advice="make one with `createdb --encoding UTF8 --template template0`",
                )
            await db.execute(f"SELECT pg_advisory_lock({self.lock_key('writing')})")
            if not await db.fetchval(_SCHEMA_EXISTS, self.schema):
                await db.execute(f"CREATE SCHEMA {self.search_path}")
        except (asyncpg.PostgresError, OSError) as error:
            raise refused(self, error) from error
        finally:
            await db.close()


_SCHEMA_EXISTS: Final = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)"


def is_postgres(url: str) -> bool:
    """Whether a database URL names a PostgreSQL server."""
    return url.partition("://")[0] in ("postgresql", "postgres", "postgresql+asyncpg")


def parse_server(url: str) -> Server:
    """The server that a URL of the form `postgresql://user@host/database?schema=name` names.

    Everything that libpq's URLs hold is allowed; `host=/run/postgresql` names a socket's folder.

    Raises:
        ConfigError: it is no such URL, or asyncpg is not installed.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise ConfigError(
            f"database: the URL cannot be read: {error}",
            advice="write for example postgresql://honed@db.internal/honed",
        ) from error
    if find_spec("asyncpg") is None:
        raise ConfigError(
            "database: PostgreSQL needs a package that is not installed: asyncpg",
            advice="pip install 'honed[postgres]'",
        )
    schemas = [value for name, value in query if name == "schema"]
    query = [(name, value) for name, value in query if name != "schema"]
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    public = [(name, value) for name, value in query if "password" not in name]
    schema = schemas[-1] if schemas else _SCHEMA
    if not schema or "\0" in schema or len(schema.encode()) > 63:
        raise ConfigError(f"database: {schema!r} cannot name a schema: expected 1 to 63 bytes")
    shown = urlencode([*public, ("schema", schema)], safe="/")
    return Server(
        dsn=f"postgresql://{parts.netloc}{parts.path}{'?' if query else ''}{urlencode(query)}",
        schema=schema,
        shown=f"postgresql://{name}{'@' if name else ''}{host}{parts.path}?{shown}",
    )


def is_lost(error: BaseException) -> bool:
    """Whether it says that the connection is gone, or could not be made yet."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        import asyncpg

        if isinstance(error, ValueError):  # asyncpg's own word for a value that it cannot express
            return False
        # it calls it an internal error when the server is gone while nobody listened
        gone = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        return isinstance(error, gone)
    return state[:2] == "08" or state in ("57P01", "57P02", "57P03", "53300")


def advice_of(error: BaseException) -> str | None:
    """What to do about an error of the server."""
    state = getattr(error, "sqlstate", None) or ("08000" if isinstance(error, OSError) else "")
    return _ADVICE.get(state) or _ADVICE.get(state[:2])


def unreachable(server: Server, error: BaseException) -> UnreachableError:
    """What is raised when the server does not answer."""
    return UnreachableError(
        f"the database server of {server.shown} does not answer: {words(error)}",
        advice=advice_of(error) or _ADVICE["08"],
    )


def refused(server: Server, error: BaseException) -> StoreError:
    """What is raised when it answers, but not with what was asked for."""
    return StoreError(
        f"the database {server.shown} cannot be used: {words(error)}", advice=advice_of(error)
    )


def words(error: BaseException) -> str:
    """The error's own words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
