"""The hot transaction on SQLite: one batch of events into records and groups, in plain `sqlite3`.

Multi-row statements in sizes that are powers of two: few texts to prepare and to keep, and one call
into SQLite for up to 128 rows (`executemany` lets go of the interpreter lock at every row and waits
for it while the loop works; measured: 11-14 against 6 us a row).
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from honed.ports import Disposition, FilePosition, IncomingEvent
from honed.stores.grouping import (
    ALL_ATTEMPTS,
    Group,
    Stored,
    Written,
    by_group,
    differing,
    disposition_of,
)

_ROWS_MAX: Final = 128

_INSERT_RECORDS: Final = (
    "INSERT INTO records (id, event_id, digest, type, task_id, group_id, session_id, receipt_id,"
    " worker_id, received_ms, body) VALUES {rows} ON CONFLICT (event_id) DO NOTHING"
)
_UPSERT_GROUPS: Final = (
    "INSERT INTO groups (learn_model, group_key, num_records, first_ms, last_ms, closing, closed)"
    " VALUES {rows} ON CONFLICT (learn_model, group_key) DO UPDATE SET"
    " num_records = num_records + excluded.num_records, last_ms = max(last_ms, excluded.last_ms),"
    " closing = max(closing, excluded.closing), held_until_ms = 0"
    " WHERE closed = 0 RETURNING learn_model, group_key, id"
)
_INSERT_MEMBERSHIPS: Final = "INSERT INTO memberships (group_id, record_id) VALUES {rows}"
_SAME_BODY: Final = "SELECT 1 FROM records WHERE event_id = ? AND body = ?"
_NEXT_RECORD_ID: Final = (
    "SELECT max(coalesce((SELECT max(id) FROM records), 0),"
    " (SELECT newest_record_id FROM removed)) + 1"
)


_INSERT_POSITION: Final = "INSERT OR REPLACE INTO file_positions VALUES (?, ?, ?, ?)"

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "make room on the disk; the events may be sent again",
    sqlite3.SQLITE_IOERR: "look at the disk: full, over a quota, or failing; the events may be sent again",
    sqlite3.SQLITE_BUSY: "another program holds the database; end it and send the events again",
    sqlite3.SQLITE_CORRUPT: "stop the daemon, then restore a backup or see `honed doctor`",
}
"""What to do about a failed commit, by SQLite's primary result code."""


class SqliteWriting:
    """The writer's connection to a SQLite database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ready(self) -> None:
        """A file does not go away."""

    def commit(self, events: Sequence[IncomingEvent], positions: Sequence[FilePosition]) -> Written:
        """One transaction; raises what sqlite3 raises."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            written = write_batch(db, events)
            if positions:
                db.executemany(_INSERT_POSITION, positions)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite rolls back by itself when the disk is full
                db.execute("ROLLBACK")
            raise
        return written

    def advice(self, failure: Exception) -> str | None:
        """What to do about it."""
        return advice_of(failure)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


def advice_of(error: BaseException) -> str | None:
    """What to do about an error of SQLite."""
    return _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)


def write_batch(db: sqlite3.Connection, events: Sequence[IncomingEvent]) -> Written:
    """Store events and join them to their groups, inside the caller's transaction."""
    dispositions, stored = _insert_records(db, events)
    groups = by_group(stored)
    open_ids = _upsert_groups(db, groups)
    members = [
        (open_ids[key], record_id)
        for key, group in groups.items()
        if key in open_ids
        for record_id, _ in group.members
    ]
    _insert_rows(db, _INSERT_MEMBERSHIPS, members, width=2)
    closed_ids = {key: _group_id(db, key) for key in groups if key not in open_ids}
    late = [
        (record_id, group_id, event.type)
        for key, group_id in closed_ids.items()
        for record_id, event in groups[key].members
    ]
    late_outcomes = [(record_id, to) for record_id, to, kind in late if kind == "outcome"]
    num_late = len(late) - len(late_outcomes)
    late_outcomes += _follow_receipts(db, stored, open_ids | closed_ids)
    db.executemany("INSERT OR IGNORE INTO late_outcomes VALUES (?, ?)", late_outcomes)
    db.execute(
        "UPDATE totals SET num_records = num_records + ?, num_duplicates = num_duplicates + ?,"
        " num_conflicts = num_conflicts + ?, num_late = num_late + ?",
        (len(stored), dispositions.count("duplicate"), dispositions.count("conflict"), num_late),
    )
    return Written(dispositions, bool(late_outcomes))


def _insert_records(
    db: sqlite3.Connection, events: Sequence[IncomingEvent]
) -> tuple[list[Disposition], list[Stored]]:
    """Insert what is new; ids are given here, so that rows left out can be told by theirs."""
    if db.execute("SELECT 1 FROM forgotten LIMIT 1").fetchone():
        return _insert_but_forgotten(db, events)
    return _insert_new(db, events)


def _insert_but_forgotten(
    db: sqlite3.Connection, events: Sequence[IncomingEvent]
) -> tuple[list[Disposition], list[Stored]]:
    """The same where events were forgotten: those are repeats, and stay out."""
    known: set[bytes] = set()
    for start, size in _slices(len(events)):
        digests = [event.digest for event in events[start : start + size]]
        query = _statement("SELECT digest FROM forgotten WHERE digest IN {rows}", 1, size)
        known.update(digest for (digest,) in db.execute(query, digests))
    is_known = [event.event_id is not None and event.digest in known for event in events]
    fresh = [event for event, gone in zip(events, is_known, strict=True) if not gone]
    dispositions, stored = _insert_new(db, fresh)
    told = iter(dispositions)
    return ["duplicate" if gone else next(told) for gone in is_known], stored


def _insert_new(
    db: sqlite3.Connection, events: Sequence[IncomingEvent]
) -> tuple[list[Disposition], list[Stored]]:
    (next_id,) = db.execute(_NEXT_RECORD_ID).fetchone()
    dispositions: list[Disposition] = []
    stored: list[Stored] = []
    for start, size in _slices(len(events)):
        part = list(zip(range(next_id, next_id + size), events[start : start + size], strict=True))
        next_id += size
        values: list[Any] = []
        for record_id, event in part:
            # sqlite3 looks for an adapter for every `bytes` (0.6 us), and for no bytearray.
            body = bytearray(event.body)
            values += (record_id, event[0], bytearray(event.digest), *event[2:9], body)
        before = db.total_changes
        db.execute(_statement(_INSERT_RECORDS, size, 11), values)
        if db.total_changes - before == size:
            dispositions += ["stored"] * size
            stored += part
            continue
        known = _known_events(
            db, [event.event_id for _, event in part if event.event_id is not None]
        )
        same = {
            own_id
            for own_id, event in differing(part, known)
            if db.execute(_SAME_BODY, (event.event_id, bytearray(event.body))).fetchone()
        }
        for row in part:
            disposition = disposition_of(row, known, same)
            dispositions.append(disposition)
            if disposition == "stored":
                stored.append(row)
    return dispositions, stored


def _known_events(db: sqlite3.Connection, event_ids: list[str]) -> dict[str, tuple[int, bytes]]:
    marks = ", ".join("?" * len(event_ids))
    query = f"SELECT event_id, id, digest FROM records WHERE event_id IN ({marks})"
    return {event_id: (row_id, digest) for event_id, row_id, digest in db.execute(query, event_ids)}


def _upsert_groups(
    db: sqlite3.Connection, groups: dict[tuple[str, str], Group]
) -> dict[tuple[str, str], int]:
    """Make or touch the groups; the ids of those that are open."""
    rows = [
        (model, key, len(group.members), group.first_ms, group.last_ms, int(group.closes), 0)
        for (model, key), group in groups.items()
    ]
    open_ids: dict[tuple[str, str], int] = {}

    def keep(found: list[Any]) -> None:
        open_ids.update({(model, key): group_id for model, key, group_id in found})

    _insert_rows(db, _UPSERT_GROUPS, rows, width=7, keep=keep)
    return open_ids


def _group_id(db: sqlite3.Connection, key: tuple[str, str]) -> int:
    query = "SELECT id FROM groups WHERE learn_model = ? AND group_key = ?"
    (group_id,) = db.execute(query, key).fetchone()
    return int(group_id)


def _follow_receipts(
    db: sqlite3.Connection, stored: list[Stored], group_ids: dict[tuple[str, str], int]
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
    _insert_rows(
        db, "INSERT OR IGNORE INTO receipts (receipt_id, group_id) VALUES {rows}", links, width=2
    )
    arrived: list[tuple[int, int]] = []
    if links and db.execute("SELECT 1 FROM waiting_outcomes LIMIT 1").fetchone():
        for receipt_id, group_id in links:
            query = "SELECT record_id FROM waiting_outcomes WHERE receipt_id = ?"
            arrived += [(record_id, group_id) for (record_id,) in db.execute(query, (receipt_id,))]
        forget = "DELETE FROM waiting_outcomes WHERE receipt_id = ?"
        db.executemany(forget, [(receipt_id,) for receipt_id, _ in links])
    for record_id, event in stored:
        if event.type != "outcome" or event.groups:
            continue
        if event.receipt_id is None:
            if not event.task_id and not event.session_id:
                arrived.append((record_id, ALL_ATTEMPTS))
            continue
        query = "SELECT group_id FROM receipts WHERE receipt_id = ?"
        found = db.execute(query, (event.receipt_id,)).fetchall()
        arrived += [(record_id, group_id) for (group_id,) in found]
        if not found:
            db.execute("INSERT INTO waiting_outcomes VALUES (?, ?)", (event.receipt_id, record_id))
    return [pair for pair in arrived if not _join_open(db, *pair)]


def _join_open(db: sqlite3.Connection, record_id: int, group_id: int) -> bool:
    """Join an outcome to its group and mark the group as ended; False when the group is closed."""
    touched = db.execute(
        "UPDATE groups SET num_records = num_records + 1, closing = 1, held_until_ms = 0,"
        " last_ms = max(last_ms,"
        " (SELECT received_ms FROM records WHERE id = ?)) WHERE id = ? AND closed = 0",
        (record_id, group_id),
    )
    if touched.rowcount:
        db.execute("INSERT INTO memberships VALUES (?, ?)", (group_id, record_id))
    return bool(touched.rowcount)


def _insert_rows(
    db: sqlite3.Connection,
    template: str,
    rows: list[Any],
    *,
    width: int,
    keep: Callable[[list[Any]], None] | None = None,
) -> None:
    for start, size in _slices(len(rows)):
        values = [value for row in rows[start : start + size] for value in row]
        # rows of RETURNING must be read before the commit
        found = db.execute(_statement(template, size, width), values).fetchall()
        if keep is not None:
            keep(found)


def _slices(count: int) -> Iterator[tuple[int, int]]:
    """Cut `count` rows into `(start, size)`: sizes of 128, then smaller powers of two."""
    start, size = 0, _ROWS_MAX
    while start < count:
        while size > count - start:
            size //= 2
        yield start, size
        start += size


def _statement(template: str, rows: int, width: int) -> str:
    key = (template, rows, width)
    text = _statements.get(key)
    if text is None:
        row = "(" + ", ".join("?" * width) + ")"
        text = _statements[key] = template.format(rows=", ".join([row] * rows))
    return text


_statements: dict[tuple[str, int, int], str] = {}
"""Texts by template and size: at most eight sizes of six templates."""
