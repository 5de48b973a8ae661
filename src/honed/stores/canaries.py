"""`ports.Canaries` on SQL: the canaries, and what the versions that they compare have done.

What is compared is counted anew from the episodes each time: a verdict may come days after an attempt, and change it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, case, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.canary import OPEN, Canary
from honed.domain.message import Message
from honed.ports import Done, Tasks
from honed.stores import tables as t
from honed.stores.dialects import among
from honed.stores.transactions import Transactions

_decode = msgspec.json.Decoder(Canary).decode
_MS_DIGITS: Final = 13
_ATTEMPTS_MAX: Final = 100_000
"""Newest episodes that are counted: beyond them a canary has long been decided."""
_CLOCK_MS: Final = 3_600_000
"""By which the clock may have been put back since a canary began."""
_PAGE: Final = 50
"""Episodes whose calls are read at a time; one may hold a megabyte."""
_SHADOW_OF: Final = "shadow_of"
"""The tag of a copy: the receipt of the call that was copied."""
_CALL: Final = "llm"


class _Call(msgspec.Struct):
    """What is looked at of a call."""

    latency_ms: int = 0
    adapter_id: str | None = None
    receipt_id: str | None = None
    response_message: Message | None = None
    tags: dict[str, str] = {}


_decode_call = msgspec.json.Decoder(_Call).decode


class SqlCanaries:
    """Canaries of a store."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read
        self._write = transactions.write

    async def now(self, scenario: str) -> Canary | None:
        """The canary that has its share of the tasks."""
        c = t.canaries.c
        query = select(c.body).where(c.scenario == scenario, c.state.in_(sorted(OPEN)))
        async with self._read() as db:
            body = await db.scalar(query.order_by(c.started_at_ms.desc()).limit(1))
        return None if body is None else _decode(body)

    async def write(self, canary: Canary) -> None:
        """Write down a canary that begins, or how it stands now."""
        c = t.canaries.c
        mine = (c.scenario == canary.scenario, c.started_at_ms == canary.started_at_ms)
        values = {"state": canary.state, "body": msgspec.json.encode(canary).decode()}
        async with self._write() as db:
            changed = await db.execute(update(t.canaries).where(*mine).values(**values))
            if not changed.rowcount:
                key = {"scenario": canary.scenario, "started_at_ms": canary.started_at_ms}
                await db.execute(insert(t.canaries), [key | values])

    async def list(self, scenario: str, *, limit: int = 20) -> Sequence[Canary]:
        """Canaries, newest first."""
        c = t.canaries.c
        query = select(c.body).where(c.scenario == scenario).order_by(c.started_at_ms.desc())
        async with self._read() as db:
            return [_decode(body) for body in (await db.execute(query.limit(limit))).scalars()]

    async def newest_record(self) -> int:
        """The id of the newest record; 0 of none."""
        async with self._read() as db:
            return await db.scalar(select(func.max(t.records.c.id))) or 0

    async def tasks(self, canary: Canary) -> dict[str | None, Tasks]:
        """What has become of tasks that began after the canary did, by the version that answered them. Of several
        attempts at one the newest counts whose end is known.
        """
        newest = _tasks(canary).subquery().c
        num = func.count()
        known = func.sum(case((newest.outcome_type != "unknown", 1), else_=0))
        good = func.sum(case((newest.outcome_type == "success", 1), else_=0))
        query = select(newest.adapter_id, num, known, good).group_by(newest.adapter_id)
        async with self._read() as db:
            rows = (await db.execute(query)).all()
        return {row[0]: Tasks(*map(int, row[1:])) for row in rows}

    async def done(self, canary: Canary, adapter_id: str | None, *, limit: int) -> Sequence[Done]:
        """How one version did the newest of these tasks, newest first."""
        async with self._read() as db:
            rows = (await db.execute(_tasks(canary, adapter_id).limit(limit))).all()
        waits: dict[str, int] = {}
        for start in range(0, len(rows), _PAGE):
            async with self._read() as db:
                waits |= await _waits(db, [row.id for row in rows[start : start + _PAGE]])
        return [_done(row, waits.get(row.id)) for row in rows]

    async def copies(self, canary: Canary, *, limit: int) -> tuple[Sequence[Done], Sequence[Done]]:
        """The newest calls that were copied to the canary: as it answered them, and as they were answered."""
        r, before = t.records.c, 1 << 62
        copies: dict[str, Done] = {}
        originals: dict[str, Done] = {}
        while before > canary.after_record and len(copies.keys() & originals.keys()) < limit:
            query = select(r.id, r.received_ms, r.body).where(r.type == _CALL, r.id < before)
            query = query.where(r.id > canary.after_record).order_by(r.id.desc()).limit(_PAGE)
            async with self._read() as db:
                rows = (await db.execute(query)).all()
            if not rows:
                break
            before = rows[-1].id
            for row in rows:
                call = _decode_call(row.body)
                # the copy ends after the call that it repeats, or before it: they are put together at the end
                if call.tags.get(_SHADOW_OF) and call.adapter_id == canary.model_id:
                    copies[call.tags[_SHADOW_OF]] = _answered(row.received_ms, call)
                elif call.receipt_id and call.adapter_id == canary.incumbent_id:
                    originals[call.receipt_id] = _answered(row.received_ms, call)
        both = [receipt for receipt in copies if receipt in originals][:limit]
        return [copies[each] for each in both], [originals[each] for each in both]


async def is_tried(db: AsyncConnection, model_id: str) -> bool:
    """Whether a model has a share of the tasks, in any scenario."""
    query = select(t.canaries.c.body).where(t.canaries.c.state.in_(sorted(OPEN)))
    return any(_decode(body).model_id == model_id for body in (await db.execute(query)).scalars())


def _tasks(canary: Canary, *adapter: str | None) -> Select[Any]:
    """Tasks that are compared, of all versions or of one, each by one of its attempts, newest first."""
    e, parts = t.episodes.c, t.episode_records.c
    was_begun = exists().where(parts.episode_id == e.id, parts.record_id <= canary.after_record)
    columns = (e.id, e.unit, e.created_at_ms, e.adapter_id, e.outcome_type, e.score)
    newest = (
        select(*columns, e.num_tool_calls, e.answer_chars)
        .where(e.scenario == canary.scenario, e.learn_model == canary.learn_model)
        # what began when is told by the records; the ids only save looking at all episodes there are
        .where(e.id >= f"{max(0, canary.started_at_ms - _CLOCK_MS):0{_MS_DIGITS}d}")
        .where(e.num_tool_calls.is_not(None), e.unit.is_not(None), ~was_begun)
        .order_by(e.id.desc())
        .limit(_ATTEMPTS_MAX)
        .subquery()
    )
    n = newest.c
    is_open = case((n.outcome_type == "unknown", 1), else_=0)
    place = func.row_number().over(partition_by=n.unit, order_by=(is_open, n.id.desc()))
    attempts = select(newest, place.label("place")).subquery()
    query = select(attempts).where(attempts.c.place == 1).order_by(attempts.c.id.desc())
    for version in adapter:  # None is compared by IS
        is_of_base = attempts.c.adapter_id.is_(None)
        query = query.where(is_of_base if version is None else attempts.c.adapter_id == version)
    return query


async def _waits(db: AsyncConnection, episode_ids: Sequence[str]) -> dict[str, int]:
    """Milliseconds that the model took for all calls of each episode."""
    parts, r = t.episode_records.c, t.records.c
    query = select(parts.episode_id, r.body).join(t.records, r.id == parts.record_id)
    query = query.where(among(parts.episode_id, episode_ids), r.type == _CALL)
    found: dict[str, int] = {}
    for row in (await db.execute(query)).all():
        waited = _decode_call(row.body).latency_ms
        found[row.episode_id] = found.get(row.episode_id, 0) + waited
    return found


def _done(row: Row[Any], latency_ms: int | None) -> Done:
    said = row.outcome_type
    return Done(
        row.created_at_ms,
        None if said == "unknown" else said == "success",
        row.num_tool_calls,
        row.answer_chars,
        latency_ms,
        None if said == "unknown" else row.score,
    )


def _answered(at_ms: int, call: _Call) -> Done:
    said = call.response_message
    chars, tools = (len(said.text), len(said.tool_calls or ())) if said else (None, None)
    return Done(at_ms, None, tools, chars, call.latency_ms)
