"""The hot transaction on PostgreSQL: one batch of events into records and groups.

Each statement takes its rows as arrays: one text whatever the size of the batch, prepared once for each
connection, and seven round trips for a batch without repeats and late verdicts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from honed.ports import Disposition, FilePosition, IncomingEvent
from honed.stores.grouping import (
    ALL_ATTEMPTS,
    Group,
    Stored,
    Written,
    by_group,
    differing,
    disposition_of,
    is_fit_for_server,
)

if TYPE_CHECKING:
    import asyncpg

_BEGUN: Final = """
SELECT greatest((SELECT coalesce(max(id), 0) FROM records),
                (SELECT max(newest_record_id) FROM removed)) + 1,
       EXISTS (SELECT FROM forgotten), EXISTS (SELECT FROM waiting_outcomes)
"""
_INSERT_RECORDS: Final = """
INSERT INTO records (id, event_id, digest, type, task_id, group_id, session_id, receipt_id, worker_id,
                     received_ms, body)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::text[], $9::bigint[], $10::bigint[], $11::bytea[])
ON CONFLICT (event_id) DO NOTHING RETURNING id
"""
_KNOWN: Final = "SELECT event_id, id, digest FROM records WHERE event_id = ANY($1::text[])"
_SAME_BODY: Final = "SELECT 1 FROM records WHERE event_id = $1 AND body = $2"
_FORGOTTEN: Final = "SELECT digest FROM forgotten WHERE digest = ANY($1::bytea[])"
_UPSERT_GROUPS: Final = """
INSERT INTO groups AS g (learn_model, group_key, num_records, first_ms, last_ms, closing, closed)
SELECT *, 0 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (learn_model, group_key) DO UPDATE SET
  num_records = g.num_records + excluded.num_records, last_ms = greatest(g.last_ms, excluded.last_ms),
  closing = greatest(g.closing, excluded.closing), held_until_ms = 0
WHERE g.closed = 0 RETURNING learn_model, group_key, id
"""
_GROUP_ID: Final = "SELECT id FROM groups WHERE learn_model = $1 AND group_key = $2"
_INSERT_MEMBERSHIPS: Final = (
    "INSERT INTO memberships (group_id, record_id) SELECT * FROM unnest($1::bigint[], $2::bigint[])"
)
_INSERT_RECEIPTS: Final = """
INSERT INTO receipts (receipt_id, group_id) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT DO NOTHING
"""
_INSERT_LATE: Final = """
INSERT INTO late_outcomes (record_id, group_id) SELECT * FROM unnest($1::bigint[], $2::bigint[])
ON CONFLICT DO NOTHING
"""
_OF_RECEIPT: Final = "SELECT group_id FROM receipts WHERE receipt_id = $1 ORDER BY group_id"
_WAIT: Final = "INSERT INTO waiting_outcomes (receipt_id, record_id) VALUES ($1, $2)"
_ARRIVED: Final = "SELECT record_id FROM waiting_outcomes WHERE receipt_id = $1 ORDER BY record_id"
_WAITED: Final = "DELETE FROM waiting_outcomes WHERE receipt_id = ANY($1::text[])"
_TOUCH_OPEN: Final = """
WITH touched AS (
  UPDATE groups SET num_records = num_records + 1, closing = 1, held_until_ms = 0,
    last_ms = greatest(last_ms, (SELECT received_ms FROM records WHERE id = $1))
  WHERE id = $2 AND closed = 0 RETURNING id)
INSERT INTO memberships (group_id, record_id) SELECT id, $1 FROM touched RETURNING 1
"""
_POSITION: Final = """
INSERT INTO file_positions (path, inode, position, head) VALUES ($1, $2, $3, $4)
ON CONFLICT (path) DO UPDATE SET
  inode = excluded.inode, position = excluded.position, head = excluded.head
"""


async def write_batch(
    db: "asyncpg.Connection", events: Sequence[IncomingEvent], positions: Sequence[FilePosition]
) -> tuple[Written, str]:
    """Store events and join them to their groups, inside the caller's transaction.

    Returns:
        What became of them, and a last statement for the caller, who sends it with the commit.
    """
    begun = await db.fetchrow(_BEGUN)
    assert begun is not None
    next_id, has_forgotten, has_waiting = begun
    known_gone = await _forgotten(db, events) if has_forgotten else set()
    settled = [_settled(event, known_gone) for event in events]
    fresh = [event for event, known in zip(events, settled, strict=True) if known is None]
    told, stored = await _insert_records(db, next_id, fresh)
    rest = iter(told)
    dispositions = [next(rest) if known is None else known for known in settled]
    late, num_late = await _join_groups(db, stored, has_waiting=has_waiting)
    if late:
        await db.execute(_INSERT_LATE, *_columns(late, 2))
    for position in positions:
        await db.execute(_POSITION, *position)
    totals = (
        f"UPDATE totals SET num_records = num_records + {len(stored):d},"
        f" num_duplicates = num_duplicates + {dispositions.count('duplicate'):d},"
        f" num_conflicts = num_conflicts + {dispositions.count('conflict'):d},"
        f" num_late = num_late + {num_late:d}"
    )
    return Written(dispositions, bool(late)), totals


def _settled(event: IncomingEvent, forgotten: set[bytes]) -> Disposition | None:
    """What becomes of an event that is not to be stored."""
    if event.event_id is not None and event.digest in forgotten:
        return "duplicate"
    return None if is_fit_for_server(event) else "refused"


async def _forgotten(db: "asyncpg.Connection", events: Sequence[IncomingEvent]) -> set[bytes]:
    rows = await db.fetch(_FORGOTTEN, [event.digest for event in events])
    return {digest for (digest,) in rows}


async def _insert_records(
    db: "asyncpg.Connection", next_id: int, events: Sequence[IncomingEvent]
) -> tuple[list[Disposition], list[Stored]]:
    """Insert what is new; ids are given here, so that rows left out can be told by theirs."""
    if not events:
        return [], []
    rows = list(enumerate(events, next_id))
    columns = _columns([event[:10] for event in events], 10)
    new = {id for (id,) in await db.fetch(_INSERT_RECORDS, [id for id, _ in rows], *columns)}
    if len(new) == len(rows):
        return ["stored"] * len(rows), rows
    ids = [event.event_id for _, event in rows if event.event_id is not None]
    known = {row[0]: (row[1], row[2]) for row in await db.fetch(_KNOWN, ids)}
    same = {
        own_id
        for own_id, event in differing(rows, known)
        if await db.fetchval(_SAME_BODY, event.event_id, event.body)
    }
    return [disposition_of(row, known, same) for row in rows], [
        row for row in rows if row[0] in new
    ]


async def _join_groups(
    db: "asyncpg.Connection", stored: list[Stored], *, has_waiting: bool
) -> tuple[list[tuple[int, int]], int]:
    """Join records to their groups; `late_outcomes`, and how many other records came too late."""
    groups = by_group(stored)
    open_ids = await _upsert_groups(db, groups)
    members = [
        (open_ids[key], record_id)
        for key, group in groups.items()
        if key in open_ids
        for record_id, _ in group.members
    ]
    if members:
        await db.execute(_INSERT_MEMBERSHIPS, *_columns(members, 2))
    closed_ids = {
        key: int(await db.fetchval(_GROUP_ID, *key)) for key in groups if key not in open_ids
    }
    late = [
        (record_id, group_id, event.type)
        for key, group_id in closed_ids.items()
        for record_id, event in groups[key].members
    ]
    late_outcomes = [(record_id, to) for record_id, to, kind in late if kind == "outcome"]
    num_late = len(late) - len(late_outcomes)
    group_ids = open_ids | closed_ids
    late_outcomes += await _follow_receipts(db, stored, group_ids, has_waiting=has_waiting)
    return late_outcomes, num_late


async def _upsert_groups(
    db: "asyncpg.Connection", groups: dict[tuple[str, str], Group]
) -> dict[tuple[str, str], int]:
    """Make or touch the groups; the ids of those that are open."""
    if not groups:
        return {}
    rows = [
        (model, key, len(group.members), group.first_ms, group.last_ms, int(group.closes))
        for (model, key), group in groups.items()
    ]
    found = await db.fetch(_UPSERT_GROUPS, *_columns(rows, 6))
    return {(model, key): group_id for model, key, group_id in found}


async def _follow_receipts(
    db: "asyncpg.Connection",
    stored: list[Stored],
    group_ids: dict[tuple[str, str], int],
    *,
    has_waiting: bool,
) -> list[tuple[int, int]]:
    """Bring outcomes that name only a receipt to the group of its call, whichever came first.

    Returns:
        `(record id, group id)` of the outcomes that found the group closed, or name none.
    """
    calls = [event for _, event in stored if event.receipt_id and event.type != "outcome"]
    links = list(
        dict.fromkeys(
            (call.receipt_id, group_ids[mark.learn_model, mark.key])
            for call in calls
            for mark in call.groups
        )
    )
    arrived: list[tuple[int, int]] = []
    if links:
        await db.execute(_INSERT_RECEIPTS, *_columns(links, 2))
    if links and has_waiting:
        for receipt_id, group_id in links:
            arrived += [(id, group_id) for (id,) in await db.fetch(_ARRIVED, receipt_id)]
        await db.execute(_WAITED, [receipt_id for receipt_id, _ in links])
    for record_id, event in stored:
        if event.type != "outcome" or event.groups:
            continue
        if event.receipt_id is None:
            if not event.task_id and not event.session_id:
                arrived.append((record_id, ALL_ATTEMPTS))
            continue
        found = await db.fetch(_OF_RECEIPT, event.receipt_id)
        arrived += [(record_id, group_id) for (group_id,) in found]
        if not found:
            await db.execute(_WAIT, event.receipt_id, record_id)
    return [pair for pair in arrived if not await db.fetch(_TOUCH_OPEN, *pair)]


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]
