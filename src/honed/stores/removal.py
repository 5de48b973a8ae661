"""Deleting rows, inside the caller's write transaction.

Totals and counters stay as they are: they count what came, and triggers compare them with what they
were at the last training.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.stores import tables as t
from honed.stores.changes import move_count
from honed.stores.dialects import among, upsert

_PAGE: Final = 256


class _Action(msgspec.Struct):
    action: str


_decode_action = msgspec.json.Decoder(_Action).decode


async def remove_groups(db: AsyncConnection, groups: Collection[int], *, forever: bool) -> set[str]:
    """Delete groups with their episodes and records; the names of the actions in them."""
    m, e, link, said = t.memberships.c, t.episodes.c, t.episode_records.c, t.outcomes.c
    episodes = set((await db.execute(select(e.id).where(among(e.source_group, groups)))).scalars())
    records: set[int] = set()
    for query in (
        select(m.record_id).where(among(m.group_id, groups)),
        select(link.record_id).where(among(link.episode_id, episodes)),
        select(said.record_id).where(among(said.episode_id, episodes), said.record_id.is_not(None)),
    ):
        records.update((await db.execute(query)).scalars())
    names = await remove_records(db, records, forever=forever)
    await db.execute(delete(t.memberships).where(among(m.group_id, groups)))
    await db.execute(delete(t.late_outcomes).where(among(t.late_outcomes.c.group_id, groups)))
    await db.execute(delete(t.receipts).where(among(t.receipts.c.group_id, groups)))
    await db.execute(delete(t.episode_records).where(among(link.episode_id, episodes)))
    await _remove_verdicts(db, episodes)
    await db.execute(delete(t.remarks).where(among(t.remarks.c.episode_id, episodes)))
    changed = t.changed_episodes.c
    gone = delete(t.changed_episodes).where(among(changed.episode_id, episodes))
    told = gone.returning(changed.scenario, changed.learn_model, changed.counted)
    for row, num in Counter((await db.execute(told)).all()).items():
        if row.counted:
            await move_count(db, row.scenario, row.learn_model, -num)
    await db.execute(delete(t.episodes).where(among(e.id, episodes)))
    await _remove_rows(db, groups)
    return names


async def _remove_rows(db: AsyncConnection, groups: Collection[int]) -> None:
    """Delete groups, but of the newest one only what it says: its id must not be another's.

    The closing loop may hold the id of a group that it has read and not closed yet.
    """
    g = t.groups.c
    newest = (await db.execute(select(func.max(g.id)))).scalar_one_or_none()
    await db.execute(delete(t.groups).where(among(g.id, groups), g.id != newest))
    if newest in groups:
        empty = {"group_key": f"removed:{newest}", "num_records": 0, "closing": 1, "closed": 1}
        await db.execute(update(t.groups).where(g.id == newest).values(held_until_ms=0, **empty))


async def _remove_verdicts(db: AsyncConnection, episodes: Collection[str]) -> None:
    """Delete verdicts, but of the newest one only what it says: runs know by ids what they have seen."""
    said = t.outcomes.c
    newest = (await db.execute(select(func.max(said.id)))).scalar_one_or_none()
    await db.execute(delete(t.outcomes).where(said.episode_id == "", said.id != newest))
    mine = among(said.episode_id, episodes)
    await db.execute(delete(t.outcomes).where(mine, said.id != newest))
    empty = {"episode_id": "", "outcome": '{"type":"unknown"}', "source": None, "record_id": None}
    await db.execute(update(t.outcomes).where(mine).values(at_ms=0, **empty))


async def remove_records(
    db: AsyncConnection, records: Collection[int], *, forever: bool
) -> set[str]:
    """Delete records and what names them alone; the names of the actions in them."""
    if not records:
        return set()
    r, waiting, late = t.records.c, t.waiting_outcomes.c, t.late_outcomes.c
    bodies = select(r.body).where(among(r.id, records), r.type == "action")
    names = {_decode_action(body).action for body in (await db.execute(bodies)).scalars()}
    if forever:
        known = select(r.digest).where(among(r.id, records), r.event_id.is_not(None))
        query = upsert(db, t.forgotten).from_select(["digest"], known)
        await db.execute(query.on_conflict_do_nothing())
    newest = max(records)
    kept = t.removed.c.newest_record_id
    await db.execute(update(t.removed).where(kept < newest).values(newest_record_id=newest))
    await db.execute(delete(t.waiting_outcomes).where(among(waiting.record_id, records)))
    await db.execute(delete(t.late_outcomes).where(among(late.record_id, records)))
    await db.execute(delete(t.records).where(among(r.id, records)))
    return names


async def still_used(db: AsyncConnection, names: set[str]) -> set[str]:
    """Those of the actions that some record still has; ends as soon as all are found."""
    r = t.records.c
    found: set[str] = set()
    before: int | None = None
    while found != names:
        query = select(r.id, r.body).where(r.type == "action").order_by(r.id.desc()).limit(_PAGE)
        if before is not None:
            query = query.where(r.id < before)
        rows = (await db.execute(query)).all()
        found |= names & {_decode_action(row.body).action for row in rows}
        if len(rows) < _PAGE:
            break
        before = rows[-1].id
    return found


async def remove_actions(db: AsyncConnection, names: Collection[str]) -> None:
    """Delete actions that nothing has any more."""
    await db.execute(delete(t.actions).where(among(t.actions.c.name, names)))
