"""The history of a scenario as it happened, for rules that are tried on it; nothing here writes."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Integer,
    Row,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from honed.domain.outcome import Outcome
from honed.stores import tables as t
from honed.stores.transactions import Transactions
from honed.triggers.past import Made, PastEvent, Told

_PAGE: Final = 2_000
"""Events in memory at a time; the database sorts them on its own."""
_AT_ONCE_MS: Final = 1_000
"""A verdict that was written down this soon after its episode came with it."""
_decode_outcome = msgspec.json.Decoder(Outcome).decode


class SqlPast:
    """What happened to a scenario's episodes."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read

    async def events(
        self,
        scenario: str,
        learn_model: str,
        *,
        since_ms: int,
        take: Callable[[Sequence[PastEvent]], None],
    ) -> None:
        """Hand on the episodes made since, and what was said of them, in order of time and some at a time.

        Each verdict counts from when it came until the next one on its episode. What was forgotten or cleared away is
        not told.
        """
        query = _query(scenario, learn_model, since_ms)
        async with self._read() as db:
            found = await db.stream(query, execution_options={"yield_per": _PAGE})
            async for page in found.partitions(_PAGE):
                take([_event(row) for row in page])

    async def first_ms(self, scenario: str, learn_model: str) -> int | None:
        """When the oldest episode that is still there was made."""
        e = t.episodes.c
        query = select(func.min(e.created_at_ms))
        query = query.where(e.scenario == scenario, e.learn_model == learn_model)
        async with self._read() as db:
            at_ms: int | None = await db.scalar(query)
            return at_ms


def _query(scenario: str, learn_model: str, since_ms: int) -> Select[Any]:
    e, g, o = t.episodes.c, t.groups.c, t.outcomes.c
    mine = and_(e.scenario == scenario, e.learn_model == learn_model, e.created_at_ms >= since_ms)
    active = func.coalesce(g.last_ms, e.created_at_ms)
    made = (
        select(
            e.created_at_ms.label("at_ms"),
            literal(0).label("said"),
            e.number.label("number"),
            case((active < e.created_at_ms, active), else_=e.created_at_ms).label("active_ms"),
            cast(null(), t.Text).label("outcome"),
        )
        .join(t.groups, g.id == e.source_group, isouter=True)
        .where(mine)
    )
    came_with_it = o.at_ms < e.created_at_ms + _AT_ONCE_MS
    told = (
        select(
            case((came_with_it, e.created_at_ms), else_=o.at_ms).label("at_ms"),
            o.id.label("said"),
            e.number.label("number"),
            cast(null(), Integer).label("active_ms"),
            o.outcome.label("outcome"),
        )
        .join(t.episodes, e.id == o.episode_id)
        .where(mine)
    )
    both = union_all(made, told).subquery()
    return select(both).order_by(both.c.at_ms, both.c.said, both.c.number)


def _event(row: Row[Any]) -> PastEvent:
    if row.outcome is None:
        return Made(row.at_ms, row.number, row.active_ms)
    return Told(row.at_ms, row.number, _decode_outcome(row.outcome))
