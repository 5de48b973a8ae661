"""What a program asks of a daemon that runs in its own process; `honed.daemon` is the daemon.

daemon = LearningDaemon(Config(scenario="airline", database="sqlite://", ...))
tasks.start_soon(daemon.run)
await daemon.send([event])
result = await daemon.process_now()
await daemon.close()
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
from msgspec import Struct

from honed import log
from honed.api import EventStream
from honed.config import Config
from honed.domain.processing import ProcessResult, result_of
from honed.domain.trained_model import Selection
from honed.loop import InService, Lines
from honed.loop.in_service import AppliedNow, Skipped
from honed.ports import Ingested, StoreStats
from honed.process import Surroundings
from honed.sink import Sink
from honed.sources import OtherSource
from honed.stores import SqlStore


class DaemonStats(Struct, frozen=True, kw_only=True):
    """What a daemon has done since it started; `last_train_at` and what is in the store outlive it."""

    records_received: int
    """Records that were stored."""
    episodes_created: int
    trainings_completed: int
    models_applied: int
    last_train_at: datetime | None
    """When the last training that counts ended, this daemon's or a former one's."""
    started_at: datetime
    trainings_failed: int
    trainings_skipped: int
    duplicates: int
    """Events that were known."""
    late_records: int
    """Records for attempts that had ended."""
    rejected: int
    """Lines that were no events."""
    lagged: int
    """Events that listeners of a bus lost for want of room."""
    queue_depth: int
    """Events that wait for their commit."""
    training: str | None
    """The run in progress."""


class InProcess:
    """The part of `LearningDaemon` that programs use; what it works on is the daemon's."""

    config: Config
    _surroundings: Surroundings
    _events: EventStream
    _store: SqlStore | None
    _sink: Sink | None
    _loop: Lines | None
    _in_service: InService | None
    _others: list[OtherSource]
    _started_at: datetime
    _event_loop: asyncio.AbstractEventLoop | None = None
    _has_ended: anyio.Event | None = None
    _at_start: StoreStats | None = None

    async def send(self, events: Iterable[Mapping[str, Any] | Struct | bytes]) -> Ingested:
        """Store events, each as a mapping, as one of `honed.domain.events`, or as a line of JSON.

        Returns after the commit; invalid ones are told apart, the others are stored.

        Raises:
            StoreError: nothing was stored; send them again.
        """
        assert self._sink is not None, "the daemon runs"
        lines = [each if isinstance(each, bytes) else msgspec.json.encode(each) for each in events]
        return await self._sink.ingest(lines)

    async def process_now(
        self,
        *,
        selection: Selection = "successes",
        against_base: bool = False,
        learn_model: str | None = None,
    ) -> ProcessResult:
        """Start a run past the trigger and the back-off, and wait for its end; with `learn.review` for a person first.

        Raises:
            BusyError: a run is in progress.
            ControlError: it would be for nothing.
        """
        assert self._loop is not None, "the daemon runs"
        run_id = self._loop.train_now(
            selection=selection, against_base=against_base, learn_model=learn_model
        )
        run = await self._loop.of(learn_model).until_ended(run_id)
        return result_of(run, self.config.mode)

    async def apply_model(self, model_id: str, *, force: bool = False) -> AppliedNow | Skipped:
        """Put a model into service, whatever `apply.mode` says; see `InService.apply`."""
        assert self._in_service is not None, "the daemon runs"
        return await self._in_service.apply(model_id, force=force)

    async def stats(self) -> DaemonStats:
        """What this daemon has done so far; zeros before it runs."""
        count = self._events.counts
        if self._store is None or self._loop is None or self._sink is None:
            now = before = StoreStats(
                num_records=0,
                num_episodes=0,
                num_duplicates=0,
                num_conflicts=0,
                num_late=0,
                open_groups=0,
                queue_depth=0,
            )
            last_ms, rejected = None, 0
        else:
            now = await self._store.stats()
            before = self._at_start or now
            last_ms = (await self._loop.state()).last_train_at_ms
            rejected = self._sink.counts().rejected
        training = self._loop.running_id if self._loop else None
        return DaemonStats(
            records_received=now.num_records - before.num_records,
            episodes_created=count[log.EPISODE_CREATED],
            trainings_completed=count[log.TRAINING_DONE],
            models_applied=count[log.MODEL_APPLIED],
            last_train_at=datetime.fromtimestamp(last_ms / 1000, UTC) if last_ms else None,
            started_at=self._started_at,
            trainings_failed=count[log.TRAINING_FAILED],
            trainings_skipped=count[log.TRAINING_SKIPPED],
            duplicates=now.num_duplicates - before.num_duplicates,
            late_records=now.num_late - before.num_late,
            rejected=rejected,
            lagged=sum(source.status().get("lagged", 0) for source in self._others),
            queue_depth=now.queue_depth,
            training=training,
        )

    def request_stop(self) -> None:
        """Ask `run` to close everything in order. Never blocks; any thread may call it, also before `run`."""
        if self._event_loop is None:
            self._surroundings.stop.set()
            return
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._event_loop.call_soon_threadsafe(self._surroundings.stop.set)

    async def close(self) -> None:
        """Have `run` close everything in order, and wait until it has."""
        self.request_stop()
        if self._has_ended is not None:
            await self._has_ended.wait()

    @contextlib.contextmanager
    def _running_here(self) -> Iterator[None]:
        """From now on other threads know where to ask."""
        self._event_loop, self._has_ended = asyncio.get_running_loop(), anyio.Event()
        try:
            yield
        finally:
            self._has_ended.set()
