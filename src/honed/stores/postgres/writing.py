"""The writer's connection to a PostgreSQL server.

The writer is a thread that waits for its database, so this one has an event loop of its own: it runs
while a batch is committed, and leaves the daemon's loop to the sources.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from honed import log
from honed.errors import StoreError
from honed.ports import FilePosition, IncomingEvent
from honed.stores.grouping import Written
from honed.stores.postgres.batch import write_batch
from honed.stores.postgres.server import STATEMENT_S, Server, advice_of, is_lost, unreachable
from honed.stores.writer import TakenOverError

if TYPE_CHECKING:
    import asyncpg

_CLOSE_S: Final = 5.0
_FREED_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.1


class PostgresWriting:
    """Commits batches; a connection that was lost is made anew."""

    def __init__(self, server: Server, *, alone: bool) -> None:
        """Connect.

        Args:
            server: where to.
            alone: hold the store's lock of a daemon as long as the connection lives.

        Raises:
            StoreError: the server does not answer or refuses us, or another daemon holds the lock. It may
                be one that is gone, as the server will notice: trying again helps then.
        """
        self._server = server
        self._alone = alone
        self._begin = f"BEGIN; SELECT pg_advisory_xact_lock({server.lock_key('writing')})"
        self._db: asyncpg.Connection | None = None
        self._is_committing = False
        self._runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        try:
            self._runner.run(self._connected())
        except BaseException:
            self._runner.close()
            raise

    def ready(self) -> None:
        """Return when the server answers and the lock is ours.

        Raises:
            StoreError: the server is away.
            TakenOverError: another daemon has taken the lock meanwhile.
        """
        self._runner.run(self._ready())

    def commit(self, events: Sequence[IncomingEvent], positions: Sequence[FilePosition]) -> Written:
        """One transaction.

        A connection that is lost before the commit costs nothing: the batch is written over a new one.
        One that is lost during the commit leaves open what became of it: the batch fails, and sent
        again what was stored is a repeat.

        Raises:
            StoreError: the server is away; nothing is known to be stored.
            PostgresError: it refuses the batch.
        """
        return self._runner.run(self._commit(events, positions))

    def advice(self, failure: Exception) -> str | None:
        """What to do about a failed batch."""
        return advice_of(failure)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(Exception):  # it may be gone, and with it the lock
            if self._db is not None:
                self._runner.run(self._db.close(timeout=_CLOSE_S))
        self._runner.close()

    async def _connected(self) -> "asyncpg.Connection":
        if self._db is not None and not self._db.is_closed():
            return self._db
        if self._db is not None:
            log.get().warning(log.STORE_LOST, database=self._server.shown)
            self._db.terminate()
        db = await self._server.connect()
        try:
            if self._alone:
                await self._take_lock(db, again=self._db is not None)
            if await db.fetchval("SHOW synchronous_commit") == "off":
                # An ack must outlive the server's crash.
                await db.execute("SET synchronous_commit = on")
        except BaseException:
            db.terminate()
            raise
        self._db = db
        return db

    async def _take_lock(self, db: "asyncpg.Connection", *, again: bool) -> None:
        key = self._server.lock_key("daemon")
        until = time.monotonic() + (_FREED_S if again else 0)
        while not await db.fetchval("SELECT pg_try_advisory_lock($1)", key):
            if time.monotonic() < until:  # the server may still hold it for our lost connection
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            cls = TakenOverError if again else StoreError
            raise cls(
                f"database: another daemon works on {self._server.shown}",
                advice="stop it, or give this one a schema of its own: ?schema=NAME",
            )

    async def _ready(self) -> None:
        db = await self._connected()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await db.execute("SELECT 1")
        except Exception:  # whatever it is, a new connection is the answer to it, or says more
            db.terminate()
            await self._connected()

    async def _commit(
        self, events: Sequence[IncomingEvent], positions: Sequence[FilePosition]
    ) -> Written:
        is_again = False
        while True:
            self._is_committing = False
            db = await self._connected()
            try:
                return await self._transact(db, events, positions)
            except Exception as failure:
                if not (db.is_closed() or is_lost(failure)):
                    raise
                db.terminate()
                if self._is_committing or is_again:
                    raise unreachable(self._server, failure) from failure
                is_again = True

    async def _transact(
        self,
        db: "asyncpg.Connection",
        events: Sequence[IncomingEvent],
        positions: Sequence[FilePosition],
    ) -> Written:
        try:
            async with asyncio.timeout(STATEMENT_S):
                await db.execute(self._begin)
                written, last = await write_batch(db, events, positions)
                self._is_committing = True
                await db.execute(f"{last}; COMMIT")
        except BaseException:
            if not db.is_closed():
                await self._roll_back(db)
            raise
        return written

    async def _roll_back(self, db: "asyncpg.Connection") -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await db.execute("ROLLBACK")
        except Exception:  # then the server rolls back, when it sees that we are gone
            db.terminate()
