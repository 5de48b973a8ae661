"""Where imported rows go: the feed of a running daemon, or the same intake in this process.

Episodes in honed's own form are stored as they are, under their ids; a daemon sees them when it next
looks. Everything else is events, and becomes episodes as live traffic does.
"""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Final

import anyio
import anyio.to_thread

from honed.cli.asking import daemon_answers
from honed.client import AsyncHonedClient, RejectedError
from honed.config import Config
from honed.daemon import only_daemon_of
from honed.errors import StoreError, ValidationError
from honed.ports import Ingested, Rejected
from honed.process import running
from honed.sink import Sink
from honed.stores import SqlStore
from honed.training_sets import (
    BadRow,
    HeldOutSplit,
    Reading,
    StoredEpisode,
    load_or_make_secret,
)

_CLOSING_MAX_S: Final = 120.0
"""How long imported attempts may take to become episodes."""

Send = Callable[[list[bytes]], Awaitable[Ingested]]
"""Stores events; on disk when it returns."""


class Intake:
    """Takes rows, in batches that `flush` sends."""

    def __init__(
        self, config: Config, store: SqlStore, sink: Sink, send: Send, split: HeldOutSplit
    ) -> None:
        self._config = config
        self._split = split
        self._store = store
        self._sink = sink
        self._send = send
        self._calls: list[bytes] = []
        self._outcomes: list[bytes] = []
        self.num_known = 0
        """Attempts that the store had."""
        self.elsewhere: Counter[str] = Counter()
        """Episodes that were stored under another scenario, their own."""

    async def take(self, row: Reading) -> Reading | BadRow:
        """Take a row, or say why not; the same with and without a daemon."""
        if row.episode is not None:
            return await self._adopt(row, row.episode)
        line_max = self._config.events.line_max
        longest = max((len(line) for told in row.trajectories for line in told.lines), default=0)
        if longest > line_max:
            return BadRow(row.line, f"{longest} bytes: events.line_max allows {line_max}")
        for told in row.trajectories:
            self._calls += told.calls
            self._outcomes.append(told.outcome)
        return row

    async def flush(self) -> None:
        """Send what was taken; on disk when it returns."""
        if self._calls:
            await self._send_made(self._calls)
            self.num_known += await self._send_made(self._outcomes)
        self._calls, self._outcomes = [], []

    async def take_events(self, lines: list[bytes]) -> Ingested:
        """Store events as they are; on disk when it returns."""
        return await self._send(lines)

    async def until_closed(self) -> None:
        """Wait until every ended attempt has become an episode."""
        settle_ms = round(self._config.events.settle.total_seconds() * 1000)
        with anyio.move_on_after(_CLOSING_MAX_S):
            while True:
                due_ms = await self._store.next_due_ms(settle_ms=settle_ms, idle_ms=0)
                if due_ms is None or due_ms > time.time() * 1000 + settle_ms + 1000:
                    return  # what is left is held back: a learn model refused it
                await anyio.sleep(0.05)

    async def _send_made(self, lines: list[bytes]) -> int:
        """Store events that were made of rows; how many were known."""
        done = await self._send(lines)
        for rejected in done.rejected:
            raise StoreError(f"an imported event was refused: {rejected.message}")
        return done.duplicates

    async def _adopt(self, row: Reading, stored: StoredEpisode) -> Reading | BadRow:
        await self.flush()  # an attempt that came in before it is known to the store
        if stored.is_held_out:  # before it is there to be learned from
            models = self._config.learn.models()
            await self._split.hold_out(self._store.lessons, models, stored.episode)
        try:
            is_new = await self._sink.adopt(stored.episode, stored.provenance)
        except ValidationError as error:
            return BadRow(row.line, str(error))
        scenario = stored.episode.metadata.scenario or ""
        if not is_new:
            self.num_known += 1
        elif scenario != self._config.scenario:
            self.elsewhere[scenario] += 1
        return row


@contextlib.asynccontextmanager
async def open_intake(config: Config, store: SqlStore) -> AsyncIterator[Intake]:
    """The intake of a data folder, whether a daemon runs on it or not."""
    is_new = not await store.has_records()
    with contextlib.ExitStack() as alone:
        by_daemon = await anyio.to_thread.run_sync(daemon_answers, config)
        if not by_daemon:
            alone.enter_context(only_daemon_of(config.data_dir))
        secret = load_or_make_secret(config.data_dir / "secret.key", may_make=is_new)
        split = HeldOutSplit(secret, config.gate.held_out_fraction)
        sink = Sink(
            store,
            config.learn.models(),
            scenario=config.scenario,
            secret=secret,
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda episode: None,
            consent=config.consent.consent(),
            redaction=config.redact.redaction(secret),
        )
        if by_daemon:
            async with AsyncHonedClient(config.feed_socket) as client:

                async def to_daemon(lines: list[bytes]) -> Ingested:
                    try:
                        sent = await client.send_lines(lines)
                    except RejectedError as error:
                        return _told(error)
                    return Ingested(sent.stored, sent.duplicates, ())

                yield Intake(config, store, sink, to_daemon, split)
            return
        async with running(sink.run):
            yield Intake(config, store, sink, sink.ingest, split)


def _told(error: RejectedError) -> Ingested:
    """What the daemon said, in the words of the intake here."""
    rejected = tuple(
        Rejected(
            event.position,
            "conflict" if event.code == "conflict" else "invalid",
            event.message,
            event.path,
        )
        for event in error.events
    )
    return Ingested(error.stored, error.duplicates, rejected)
