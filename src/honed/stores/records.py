"""`ports.Records` on SQL: what came in, by itself."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select

from honed.domain.records import LearnStatsRecord, Record
from honed.domain.snapshot import LearningSnapshot, snapshot_of
from honed.ports import RecordFilter, RecordRow
from honed.stores import tables as t
from honed.stores.reads import read_record
from honed.stores.transactions import Transactions

_PAGE: Final = 100
"""Whole records read at a time; one may hold a megabyte."""
_IDS: Final = 500
_WHOLE: Final = (t.records.c.id, t.records.c.received_ms, t.records.c.body)
_LISTED: Final = tuple(t.records.c[name] for name in RecordRow.__struct_fields__)


class SqlRecords:
    """Reads the records of a store."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read

    async def get(self, record_ids: Sequence[int]) -> list[Record]:
        """The records of these ids, in their order; ids that are not there are skipped."""
        found: dict[int, Record] = {}
        async with self._read() as db:
            for start in range(0, len(record_ids), _IDS):
                query = select(*_WHOLE).where(t.records.c.id.in_(record_ids[start : start + _IDS]))
                found |= {row.id: read_record(row) for row in await db.execute(query)}
        return [found[id] for id in record_ids if id in found]

    async def query(self, filter: RecordFilter) -> AsyncIterator[Record]:
        """Whole records in order of arrival, read in pages; no transaction is open between two pages."""
        after, offset, left = None, filter.offset, filter.limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            query = _ordered(select(*_WHOLE), filter).limit(size).offset(offset)
            if after is not None:
                id = t.records.c.id
                query = query.where(id < after if filter.newest_first else id > after)
            async with self._read() as db:
                rows = (await db.execute(query)).all()
            for row in rows:
                yield read_record(row)
            if len(rows) < size:
                return
            after, offset, left = rows[-1].id, 0, None if left is None else left - size

    async def list(self, filter: RecordFilter) -> Sequence[RecordRow]:
        """Records without their bodies."""
        query = _ordered(select(*_LISTED), filter).offset(filter.offset).limit(filter.limit)
        async with self._read() as db:
            return [RecordRow(**row._mapping) for row in await db.execute(query)]

    async def count(self, filter: RecordFilter) -> int:
        """How many records fit; `limit` and `offset` are not looked at."""
        query = select(func.count()).select_from(t.records).where(*_conditions(filter))
        async with self._read() as db:
            return int(await db.scalar(query) or 0)

    async def snapshot(self, scenario: str, session_id: str) -> LearningSnapshot | None:
        """The newest statistics of a session; None when it has told none."""
        told = RecordFilter(type="learn_stats", session_id=session_id, newest_first=True)
        async for record in self.query(told):
            if isinstance(record, LearnStatsRecord) and record.scenario == scenario:
                return snapshot_of(record)
        return None


def _ordered(query: Select[Any], filter: RecordFilter) -> Select[Any]:
    id = t.records.c.id
    query = query.where(*_conditions(filter))
    return query.order_by(id.desc() if filter.newest_first else id.asc())


def _conditions(filter: RecordFilter) -> list[ColumnElement[bool]]:
    r = t.records.c
    equal = {
        r.type: filter.type,
        r.worker_id: filter.worker_id,
        r.task_id: filter.task_id,
        r.group_id: filter.group_id,
        r.session_id: filter.session_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if filter.since_ms is not None:
        conditions.append(r.received_ms >= filter.since_ms)
    if filter.until_ms is not None:
        conditions.append(r.received_ms <= filter.until_ms)
    return conditions
