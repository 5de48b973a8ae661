"""`ports.Keeping` on SQL: what is found, deleted in small transactions, and leaves no trace in the files."""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from sqlalchemy import exists, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.trained_model import TrainedModel
from honed.ports import Aged, Extent, Room, Whose
from honed.stores import removal, upkeep
from honed.stores import tables as t
from honed.stores.dialects import absent, among
from honed.stores.extent import find, made_of
from honed.stores.room import give_back, room
from honed.stores.transactions import Transactions

T = TypeVar("T", int, str)

_GROUPS: Final = 50
_RECORDS: Final = 500
"""What one transaction deletes at most; events pass between two."""
_SCRUB_TRIES: Final = 50

_decode_model = msgspec.json.Decoder(TrainedModel).decode


class SqlKeeping:
    """Takes data out of a store."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def find(self, whose: Whose) -> Extent:
        """All that belongs to them, and all that cannot stay without it."""
        async with self._transactions.read() as db:
            return await find(db, whose)

    async def aged(self, aged: Aged, *, limit: int) -> Extent:
        """The oldest of what may go."""
        async with self._transactions.read() as db:
            groups = await _aged_groups(db, aged, limit)
            records = await _aged_records(db, aged, limit)
            attempts = await made_of(db, groups)
            return attempts._replace(record_ids=attempts.record_ids | records)

    async def remove(
        self, extent: Extent, *, forever: bool, while_aged: Aged | None = None
    ) -> None:
        """Delete it; first what is in no group, so that what an interruption leaves is found again.

        With `while_aged`, only attempts that still may go: a verdict may have come since they were looked up.
        """
        write = self._transactions.write
        names: set[str] = set()
        async with self._transactions.read() as db:
            m = t.memberships.c
            members = select(m.record_id).where(among(m.group_id, extent.group_ids))
            grouped = set((await db.execute(members)).scalars()) if extent.group_ids else set()
        for part in _parts(extent.record_ids - grouped, _RECORDS):
            async with write() as db:
                names |= await removal.remove_records(db, part, forever=forever)
            await anyio.lowlevel.checkpoint()
        for part in _parts(extent.group_ids, _GROUPS):
            async with write() as db:
                still: Collection[int] = part
                if while_aged is not None:
                    still = await _aged_groups(db, while_aged, len(part), within=part)
                names |= await removal.remove_groups(db, still, forever=forever)
            await anyio.lowlevel.checkpoint()
        if names:
            async with write() as db:
                unused = names - await removal.still_used(db, names)
                await removal.remove_actions(db, unused)

    async def learned_from(self, episode_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The adapters that were trained on any of the episodes, and on which of them."""
        wanted = frozenset(episode_ids)
        async with self._transactions.read() as db:
            query = select(t.models.c.body).order_by(t.models.c.created_at_ms)
            models = [_decode_model(body) for body in (await db.execute(query)).scalars()]
        found = {
            model.id: tuple(sorted(wanted.intersection(model.episode_ids))) for model in models
        }
        return {model_id: ids for model_id, ids in found.items() if ids}

    @property
    def out_of_reach(self) -> tuple[str, ...]:
        """What a server keeps to itself; nothing where the database is a file."""
        return upkeep.SERVER_KEEPS if self._transactions.is_on_server else ()

    async def scrub(self) -> bool:
        """Have the database let go of what was removed; see `upkeep.scrub`."""
        for _ in range(_SCRUB_TRIES):
            # a server clears up beside the writer
            async with self._transactions.outside(
                in_turn=not self._transactions.is_on_server
            ) as db:
                if await upkeep.scrub(db):
                    return True
            await anyio.sleep(0.1)  # a reader still looks at what is in the log
        return False

    async def room(self) -> Room | None:
        """What the data take; None where the database does not tell."""
        async with self._transactions.read() as db:
            return await room(db)

    async def give_back(self, on_step: Callable[[Room], None]) -> int:
        """Give free room back to the disk, in small steps; how many bytes went."""
        given = await give_back(self._transactions, on_step)
        if given:
            await self.scrub()
        return given

    async def compact(self) -> int:
        """Write the database anew; events wait meanwhile."""
        async with self._transactions.outside() as db:
            before = await upkeep.size(db)
            await upkeep.rewrite(db)
            after = await upkeep.size(db)
        await self.scrub()
        return before - after


async def _aged_groups(
    db: AsyncConnection, aged: Aged, limit: int, *, within: Collection[int] | None = None
) -> frozenset[int]:
    """Closed groups whose last record is old enough for every episode that was made of them, and that wait for no
    verdict.
    """
    g, e, s, c = t.groups.c, t.episodes.c, t.learning_states.c, t.changed_episodes.c
    seen = exists().where(
        s.scenario == e.scenario, s.learn_model == e.learn_model, e.number <= s.last_train_count
    ) & ~exists().where(
        c.scenario == e.scenario, c.learn_model == e.learn_model, c.episode_id == e.id
    )
    classes = (
        (aged.unlabelled_before_ms, e.outcome_type == "unknown"),
        (aged.seen_before_ms, (e.outcome_type != "unknown") & seen),
        (aged.unseen_before_ms, (e.outcome_type != "unknown") & ~seen),
        (aged.passed_before_ms, seen),
    )
    may_go = [(g.last_ms < before) & which for before, which in classes if before is not None]
    if not may_go:
        return frozenset()
    of_group = exists().where(e.source_group == g.id)
    kept = exists().where(e.source_group == g.id, ~or_(*may_go))
    late = exists().where(t.late_outcomes.c.group_id.in_((g.id, -g.id)))
    query = select(g.id).where(g.closed == 1, of_group, ~kept, ~late)
    if within is not None:
        query = query.where(among(g.id, within))
    query = query.order_by(g.last_ms).limit(limit)
    return frozenset((await db.execute(query)).scalars())


async def _aged_records(db: AsyncConnection, aged: Aged, limit: int) -> frozenset[int]:
    """Old records that no group, episode or verdict knows."""
    if aged.loose_before_ms is None:
        return frozenset()
    r, said = t.records.c, t.outcomes.c
    known = (
        t.memberships.c.record_id,
        t.episode_records.c.record_id,
        said.record_id,
        t.waiting_outcomes.c.record_id,
        t.late_outcomes.c.record_id,
    )
    query = select(r.id).where(
        r.received_ms < aged.loose_before_ms, *[absent(db, r.id, k) for k in known]
    )
    return frozenset((await db.execute(query.order_by(r.id).limit(limit))).scalars())


def _parts(values: Collection[T], size: int) -> Iterator[set[T]]:
    rest = iter(sorted(values))
    while part := set(islice(rest, size)):
        yield part
