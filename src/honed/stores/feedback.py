"""Queries about what was said of episodes; nothing here writes."""

from collections.abc import Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.ports import Attempts
from honed.stores import tables as t


async def attempts(
    db: AsyncConnection,
    keys: Sequence[tuple[str, str]],
    receipt_id: str | None,
    group_id: str | None,
) -> Attempts:
    """The attempts of these learn models' group keys, else of the receipt, else of the group."""
    g, r, e = t.groups.c, t.receipts.c, t.episodes.c
    if keys:
        same = (and_(g.learn_model == model, g.group_key == key) for model, key in keys)
        query = select(g.id, g.closed).where(or_(*same))
    elif receipt_id is not None:
        query = select(g.id, g.closed).join(t.receipts, r.group_id == g.id)
        query = query.where(r.receipt_id == receipt_id)
    else:
        named = select(e.id).where(e.group_id == group_id).order_by(e.id)
        return Attempts(tuple((await db.execute(named)).scalars()), 0)
    groups = (await db.execute(query)).all()
    closed = [group.id for group in groups if group.closed]
    found = select(e.id).where(e.source_group.in_(closed)).order_by(e.id)
    episode_ids = (await db.execute(found)).scalars().all()
    return Attempts(tuple(episode_ids), len(groups) - len(closed))
