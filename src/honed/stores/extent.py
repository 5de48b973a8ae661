"""What belongs together: from an agent's name, say, to every row that must go with it.

An episode without some of its records cannot be read, and a record may be in several groups. So what is
looked for grows until nothing more hangs on it.
"""

from collections.abc import Collection
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.ports import Extent, Whose
from honed.stores import tables as t
from honed.stores.dialects import among

_PAGE: Final = 256
"""Bodies decoded at a time; one may hold a megabyte."""


class _Envelope(msgspec.Struct):
    """What no column repeats."""

    agent: str | None = None
    user: str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


async def find(db: AsyncConnection, whose: Whose) -> Extent:
    """All that belongs to somebody or something, and all that cannot stay without it."""
    r = t.records.c
    match whose.kind:
        case "episode":
            query = select(t.episodes.c.id).where(t.episodes.c.id == whose.name)
            found = frozenset((await db.execute(query)).scalars())
            return await grown(db, Extent(frozenset(), frozenset(), found))
        case "agent" | "user":
            seeds = await _sent_by(db, whose)
        case _:
            columns = {"task": r.task_id, "group": r.group_id, "session": r.session_id}
            seeds = await _ids(db, r.id, columns[whose.kind] == whose.name)
    e = t.episodes.c
    also = {"task": e.task_id, "group": e.group_id}
    episodes: set[Any] = set()
    if whose.kind in also:  # of imports, whose records need not name it
        episodes = await _ids(db, e.id, also[whose.kind] == whose.name)
    return await grown(db, Extent(frozenset(seeds), frozenset(), frozenset(episodes)))


async def grown(db: AsyncConnection, start: Extent) -> Extent:
    """The extent with all that hangs on it."""
    r, m, e, link = t.records.c, t.memberships.c, t.episodes.c, t.episode_records.c
    records: set[int] = set(start.record_ids)
    groups: set[int] = set(start.group_ids)
    episodes: set[str] = set(start.episode_ids)
    size = -1
    while size != (size := len(records) + len(groups) + len(episodes)):
        groups |= await _ids(db, m.group_id, among(m.record_id, records))
        groups |= await _ids(db, e.source_group, among(e.id, episodes))
        episodes |= await _ids(db, e.id, among(e.source_group, groups))
        episodes |= await _ids(db, link.episode_id, among(link.record_id, records))
        records |= await _ids(db, m.record_id, among(m.group_id, groups))
        records |= await _ids(db, link.record_id, among(link.episode_id, episodes))
        said = t.outcomes.c
        verdicts = and_(among(said.episode_id, episodes), said.record_id.is_not(None))
        records |= await _ids(db, said.record_id, verdicts)
        if records:
            records |= await _ids(db, r.id, await _of_the_same(db, records))
    return Extent(frozenset(records), frozenset(groups), frozenset(episodes))


async def made_of(db: AsyncConnection, groups: Collection[int]) -> Extent:
    """Groups with their episodes and records, by keys alone; what came too late for them is left out."""
    m, e, link, said = t.memberships.c, t.episodes.c, t.episode_records.c, t.outcomes.c
    episodes = await _ids(db, e.id, among(e.source_group, groups))
    records = await _ids(db, m.record_id, among(m.group_id, groups))
    records |= await _ids(db, link.record_id, among(link.episode_id, episodes))
    verdicts = and_(among(said.episode_id, episodes), said.record_id.is_not(None))
    records |= await _ids(db, said.record_id, verdicts)
    return Extent(frozenset(records), frozenset(groups), frozenset(episodes))


async def _of_the_same(db: AsyncConnection, records: Collection[int]) -> ColumnElement[bool]:
    """What came for the same attempts and is in no group: too late, or no work."""
    r = t.records.c
    query = select(r.task_id, r.session_id, r.receipt_id).where(among(r.id, records))
    rows = (await db.execute(query)).all()
    tasks = {row.task_id for row in rows if row.task_id is not None}
    sessions = {row.session_id for row in rows if row.task_id is None and row.session_id}
    receipts = {row.receipt_id for row in rows if row.receipt_id}
    return or_(
        among(r.task_id, tasks),
        and_(r.task_id.is_(None), among(r.session_id, sessions)),
        and_(r.task_id.is_(None), among(r.receipt_id, receipts)),
    )


async def _ids(
    db: AsyncConnection, column: ColumnElement[Any], where: ColumnElement[bool]
) -> set[Any]:
    return set((await db.execute(select(column).where(where).distinct())).scalars())


async def _sent_by(db: AsyncConnection, whose: Whose) -> set[int]:
    """Records whose envelope names the agent or user; reads every body."""
    r = t.records.c
    found: set[int] = set()
    after = 0
    while True:
        query = select(r.id, r.body).where(r.id > after).order_by(r.id).limit(_PAGE)
        rows = (await db.execute(query)).all()
        for row in rows:
            if getattr(_decode_envelope(row.body), whose.kind) == whose.name:
                found.add(row.id)
        if len(rows) < _PAGE:
            return found
        after = rows[-1].id
