"""The store: one database, written by one thread and read through SQLAlchemy.

Events go through the writer thread (`writer.py`), everything else is a short transaction
(`transactions.py`). Taking data out again is `keeping.py`'s, looking at single records `records.py`'s.
"""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from sqlalchemy import delete

from honed import log
from honed.adapter_files import remove_adapter
from honed.domain.episode import Episode, EpisodeLike, as_episode
from honed.domain.outcome import Outcome
from honed.domain.records import Record
from honed.domain.run import Applied, LearningState, Run
from honed.domain.trained_model import GateResult, TrainedModel
from honed.domain.verdict import Seen
from honed.errors import StoreError, TriggerError
from honed.ports import (
    Attempts,
    Closing,
    Disposition,
    EpisodeFilter,
    EpisodeRow,
    FilePosition,
    IncomingEvent,
    ModelFilter,
    OpenGroup,
    Provenance,
    StoreStats,
    Verdict,
)
from honed.stores import episodes as episode_writes
from honed.stores import feedback, late, reads, runs
from honed.stores import verdicts as verdict_writes
from honed.stores.canaries import SqlCanaries
from honed.stores.keeping import SqlKeeping
from honed.stores.lessons import SqlLessons
from honed.stores.migrations import migrate
from honed.stores.past import SqlPast
from honed.stores.records import SqlRecords
from honed.stores.reviews import SqlReviews, end_review
from honed.stores.rewards import SqlRewards
from honed.stores.tables import file_positions
from honed.stores.transactions import Transactions
from honed.stores.writer import Writer
from honed.triggers.context import Needs, TriggerContext


class SqlStore:
    """`ports.Store` on SQLite or PostgreSQL; made by `opening.open_store`."""

    def __init__(self, transactions: Transactions, writer: Writer) -> None:
        self._writer = writer
        self._is_settled = True
        self._read = transactions.read
        self._write = transactions.write
        self.composition = transactions.composition
        self.keeping = SqlKeeping(transactions)
        self.records = SqlRecords(transactions)
        self.lessons = SqlLessons(transactions)
        self.past = SqlPast(transactions)
        self.rewards = SqlRewards(transactions)
        self.reviews = SqlReviews(transactions)
        self.canaries = SqlCanaries(transactions)

    async def prepare(self) -> None:
        """Bring the schema up to date and finish what a killed process left half done."""
        async with self._write() as db:
            await migrate(db)
        await self._settle()

    async def _settle(self) -> None:
        """Have the outcomes that found their group closed reach its episodes, now or with the next events.

        They are committed: a fault here must neither have them sent again nor keep the store shut.
        """
        self._is_settled = False
        try:
            more = True
            while more:
                async with self._write() as db:
                    more = await late.settle(db)
            self._is_settled = True
        except Exception as error:
            log.get().error(log.BATCH_FAILED, late_outcomes=f"{type(error).__name__}: {error}")

    async def watch(self) -> None:
        """Wait, for ever if all is well; raises StoreError once nothing can be written any more."""
        await self._writer.watch()

    async def beat(self) -> None:
        """Return once the writer has served what was queued before; it hangs when the writer does."""
        async with self._writer.turn():
            pass

    # ------------------------------------------------------------ records and groups

    async def append(
        self, events: Sequence[IncomingEvent], *, position: FilePosition | None = None
    ) -> list[Disposition]:
        """Commit events, with those of other callers; what became of each.

        Waits while the queue is full. A `position` is committed with the events, in one transaction.

        Raises:
            StoreError: not all were committed; it is safe to append them again.
        """
        if not events and position is None:
            return []
        written = await self._writer.append(events, position=position)
        if written.found_closed or not self._is_settled:
            await self._settle()
        return written.dispositions

    async def file_position(self, path: str) -> FilePosition | None:
        """How far a file has been read; None for one that never was."""
        async with self._read() as db:
            return await reads.file_position(db, path)

    async def forget_file(self, path: str) -> None:
        """Forget the position of a file that is gone."""
        async with self._write() as db:
            await db.execute(delete(file_positions).where(file_positions.c.path == path))

    async def open_groups(
        self, *, settled_before_ms: int, idle_before_ms: int, now_ms: int, limit: int = 100
    ) -> list[OpenGroup]:
        """Groups that are due and not held back, those without a record for longest first."""
        async with self._read() as db:
            return await reads.open_groups(
                db,
                settled_before_ms=settled_before_ms,
                idle_before_ms=idle_before_ms,
                now_ms=now_ms,
                limit=limit,
            )

    async def next_due_ms(self, *, settle_ms: int, idle_ms: int) -> int | None:
        """When the next open group falls due, Unix milliseconds; None when none will."""
        async with self._read() as db:
            return await reads.next_due_ms(db, settle_ms=settle_ms, idle_ms=idle_ms)

    async def hold_groups(self, group_ids: Sequence[int], *, until_ms: int) -> None:
        """Keep groups from being due until then, each until it gets another record."""
        async with self._write() as db:
            await episode_writes.hold_groups(db, group_ids, until_ms=until_ms)

    async def group_records(self, group_ids: Sequence[int]) -> dict[int, list[Record]]:
        """The records of each group in order of arrival."""
        async with self._read() as db:
            return await reads.group_records(db, group_ids)

    async def close_groups(self, closings: Sequence[Closing]) -> set[int]:
        """Store the groups' episodes and close them; the ids of those that had not changed."""
        async with self._write() as db:
            return await episode_writes.close_groups(db, closings)

    # ------------------------------------------------------------ episodes

    async def add_episode(
        self,
        episode: EpisodeLike,
        lines: Sequence[IncomingEvent],
        *,
        verdicts: Sequence[Verdict] = (),
    ) -> bool:
        """Store a ready-made episode with its events; False if the store has it already."""
        async with self._write() as db:
            return await episode_writes.add_episode(db, as_episode(episode), lines, verdicts)

    async def provenance(self, episode_ids: Sequence[str]) -> dict[str, Provenance]:
        """The events and verdicts of episodes."""
        async with self._read() as db:
            return await reads.provenance(db, episode_ids)

    async def attempts(
        self,
        keys: Sequence[tuple[str, str]],
        receipt_id: str | None = None,
        group_id: str | None = None,
    ) -> Attempts:
        """The attempts of these group keys, else of the receipt, else those of the group that have ended."""
        async with self._read() as db:
            return await feedback.attempts(db, keys, receipt_id, group_id)

    async def get_episode(self, episode_id: str) -> Episode:
        """The episode with its records; raises NotFoundError."""
        async with self._read() as db:
            return await reads.get_episode(db, episode_id)

    async def query_episodes(self, filter: EpisodeFilter) -> AsyncIterator[Episode]:
        """Whole episodes in id order, read in pages; no transaction is open between two pages."""
        after, offset, left = None, filter.offset, filter.limit
        while left is None or left > 0:
            size = reads.PAGE if left is None else min(reads.PAGE, left)
            async with self._read() as db:
                page = await reads.episode_page(db, filter, after=after, offset=offset, limit=size)
            for episode in page:
                yield episode
            if len(page) < size:
                return
            after, offset, left = page[-1].id, 0, None if left is None else left - size

    async def list_episodes(self, filter: EpisodeFilter) -> list[EpisodeRow]:
        """Episodes without their records."""
        async with self._read() as db:
            return await reads.list_episodes(db, filter)

    async def count_episodes(self, filter: EpisodeFilter) -> int:
        """How many episodes fit; `limit` and `offset` are not looked at."""
        async with self._read() as db:
            return await reads.count_episodes(db, filter)

    async def set_outcome(
        self, episode_id: str, outcome: Outcome, *, source: str | None = None
    ) -> None:
        """Append a verdict; the newest counts. Raises NotFoundError."""
        async with self._write() as db:
            said = verdict_writes.Said(outcome, source)
            await verdict_writes.set_outcomes(db, episode_id, [said])

    async def distinct_actions(self, scenario: str) -> list[str]:
        """Names of the actions in the scenario's episodes, sorted."""
        async with self._read() as db:
            return await reads.distinct_actions(db, scenario)

    # ------------------------------------------------------------ what a scenario remembers

    async def start_scenario(
        self, scenario: str, learn_model: str, *, now_ms: int
    ) -> LearningState:
        """What is remembered of the scenario; its first start is written down now if it is new."""
        async with (
            self._read() as db
        ):  # asked for by `honed status`, which must answer on a full disk
            if known := await runs.learning_state(db, scenario, learn_model):
                return known
        async with self._write() as db:
            return await runs.start_scenario(db, scenario, learn_model, now_ms=now_ms)

    async def trigger_context(
        self, scenario: str, learn_model: str, *, now_ms: int, needs: Needs
    ) -> TriggerContext:
        """The facts for the trigger, from counters and what it needs beside them.

        Raises:
            TriggerError: the facts cannot be read, or the scenario was never started.
        """
        try:
            async with self._read() as db:
                facts = await runs.trigger_context(
                    db, scenario, learn_model, now_ms=now_ms, needs=needs
                )
        except StoreError as error:
            raise TriggerError(f"the facts of {scenario} cannot be read: {error}") from error
        if facts is None:
            raise TriggerError(f"scenario {scenario} with learn model {learn_model} never started")
        return facts

    # ------------------------------------------------------------ runs, models, what is in service

    async def add_run(self, run: Run) -> None:
        """Write down a run that starts."""
        async with self._write() as db:
            await runs.add_run(db, run)

    async def end_run(
        self,
        run: Run,
        *,
        trained_count: int | None = None,
        seen: Seen | None = None,
        backoff_s: float | None = None,
    ) -> None:
        """Write down how a run ended; see `ports.Store.end_run`. Raises NotFoundError."""
        async with self._write() as db:
            await runs.end_run(db, run, trained_count=trained_count, seen=seen, backoff_s=backoff_s)

    async def skip_run(
        self, run: Run, *, trained_count: int | None = None, seen: Seen | None = None
    ) -> None:
        """Write down a run that ended before it began, and that nobody need review it any more."""
        async with self._write() as db:
            await runs.add_run(db, run)
            await runs.end_run(db, run, trained_count=trained_count, seen=seen)
            if run.review_id is not None:
                await end_review(db, run.review_id)

    async def list_runs(self, scenario: str, *, limit: int = 100) -> list[Run]:
        """Runs, newest first."""
        async with self._read() as db:
            return await runs.list_runs(db, scenario, limit=limit)

    async def next_model_number(self, scenario: str) -> int:
        """A number for the scenario's next adapter; rises, never given twice."""
        async with self._write() as db:
            return await runs.next_model_number(db, scenario)

    async def add_model(self, model: TrainedModel) -> None:
        """Register a trained model."""
        async with self._write() as db:
            await runs.add_model(db, model)

    async def set_gate(self, model_id: str, gate: GateResult) -> None:
        """Keep the verdict on a model. Raises NotFoundError."""
        async with self._write() as db:
            await runs.set_gate(db, model_id, gate)

    async def get_model(self, model_id: str) -> TrainedModel:
        """The model; raises NotFoundError."""
        async with self._read() as db:
            return await runs.get_model(db, model_id)

    async def list_models(self, scenario: str, *, limit: int = 100) -> list[TrainedModel]:
        """Models, newest first."""
        async with self._read() as db:
            return await runs.list_models(db, scenario, limit=limit)

    async def latest_model(
        self, learn_model: str, scenario: str | None = None
    ) -> TrainedModel | None:
        """The newest model of a learn model; None when there is none."""
        only = ModelFilter(learn_model=learn_model, scenario=scenario, newest_first=True, limit=1)
        return next(iter(await self.query_models(only)), None)

    async def query_models(self, filter: ModelFilter) -> list[TrainedModel]:
        """Models that fit, oldest first unless it asks for the newest."""
        async with self._read() as db:
            return await runs.query_models(db, filter)

    async def delete_model(self, model_id: str, *, files: bool = False) -> bool:
        """Take a model out of the register; see `ports.Store.delete_model`."""
        async with self._write() as db:
            model = await runs.delete_model(db, model_id)
        if model is not None and files:
            try:
                await anyio.to_thread.run_sync(remove_adapter, Path(model.adapter_path))
            except OSError as error:
                raise StoreError(f"{error.filename} cannot be removed: {error.strerror}") from error
        return model is not None

    async def history(self, scenario: str) -> list[Applied]:
        """What was in service, newest last, current included."""
        async with self._read() as db:
            return await runs.history(db, scenario)

    async def push_applied(
        self, scenario: str, model_id: str, *, expected: str | None, max_history: int, now_ms: int
    ) -> bool:
        """Write down that a model is in service, if `expected` still was; False if not."""
        async with self._write() as db:
            return await runs.push_applied(
                db, scenario, model_id, expected=expected, max_history=max_history, now_ms=now_ms
            )

    async def pop_applied(self, scenario: str, *, expected: str) -> bool:
        """Take the current entry out of the history, if it is still `expected`; False if not."""
        async with self._write() as db:
            return await runs.pop_applied(db, scenario, expected=expected)

    async def stats(self) -> StoreStats:
        """Counts for `honed status`."""
        async with self._read() as db:
            return await reads.stats(db, queue_depth=self._writer.depth)

    async def has_records(self) -> bool:
        """Whether any event was ever stored."""
        async with self._read() as db:
            return await reads.has_records(db)
