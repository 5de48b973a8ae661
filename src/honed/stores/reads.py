"""Queries: records and episodes out of their rows; nothing here writes."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, Select, and_, case, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import OutcomeEvent, parse_event
from honed.domain.outcome import Outcome
from honed.domain.records import Record, record_from_event
from honed.domain.run import LearningState
from honed.errors import NotFoundError, StoreError, ValidationError
from honed.ports import (
    EpisodeFilter,
    EpisodeRow,
    FilePosition,
    OpenGroup,
    Provenance,
    StoredEvent,
    StoreStats,
    Verdict,
)
from honed.stores import tables as t
from honed.triggers.context import TEN

_outcome = msgspec.json.Decoder(Outcome)
_tags = msgspec.json.Decoder(dict[str, str])

_Row = Row[*tuple[Any, ...]]

PAGE: Final = 16
"""Whole episodes read at a time; one may hold a megabyte of conversation."""


# The text of the partial indexes, word for word: SQLite does not use them for bound parameters.
_IS_OPEN: Final = text("closed = 0")
_IS_HELD: Final = text("held_until_ms > 0")
_IS_KNOWN: Final = text("outcome_type <> 'unknown'")
_IS_COUNTED: Final = text("counted = 1")


async def open_groups(
    db: AsyncConnection, *, settled_before_ms: int, idle_before_ms: int, now_ms: int, limit: int
) -> list[OpenGroup]:
    """The groups that are due, those without a record for longest first."""
    g = t.groups.c
    due = or_(
        and_(g.closing == 1, g.last_ms <= max(settled_before_ms, idle_before_ms)),
        and_(g.closing == 0, g.last_ms <= idle_before_ms),
    )
    query = (
        select(g.id, g.learn_model, g.group_key, g.closing, g.last_ms, g.num_records)
        .where(_IS_OPEN, due, g.held_until_ms <= now_ms)
        .order_by(g.last_ms, g.id)
        .limit(limit)
    )
    return [
        OpenGroup(
            row.id, row.learn_model, row.group_key, bool(row.closing), row.last_ms, row.num_records
        )
        for row in await db.execute(query)
    ]


async def next_due_ms(db: AsyncConnection, *, settle_ms: int, idle_ms: int) -> int | None:
    """When the next group falls due or a held one may be tried again."""
    g = t.groups.c
    oldest = select(g.last_ms).where(_IS_OPEN, g.held_until_ms == 0).order_by(g.last_ms).limit(1)
    ended = await db.scalar(oldest.where(g.closing == 1))
    running = await db.scalar(oldest.where(g.closing == 0)) if idle_ms else None
    held_query = select(g.held_until_ms).where(_IS_HELD, _IS_OPEN)
    held = await db.scalar(held_query.order_by(g.held_until_ms).limit(1))
    due = [held] if held is not None else []
    due += [ended + settle_ms] if ended is not None else []
    due += [running + idle_ms] if running is not None else []
    return min(due, default=None)


async def group_records(db: AsyncConnection, group_ids: Sequence[int]) -> dict[int, list[Record]]:
    """The records of each group in order of arrival."""
    r, m = t.records.c, t.memberships.c
    query = (
        select(m.group_id, r.id, r.received_ms, r.body)
        .join(t.memberships, m.record_id == r.id)
        .where(m.group_id.in_(group_ids))
        .order_by(m.group_id, m.record_id)
    )
    records: dict[int, list[Record]] = {group_id: [] for group_id in group_ids}
    for row in await db.execute(query):
        records[row.group_id].append(read_record(row))
    return records


async def outcome_records(db: AsyncConnection, record_ids: Iterable[int]) -> dict[int, Record]:
    """Records by their id; unknown ids are left out."""
    r = t.records.c
    query = select(r.id, r.received_ms, r.body).where(r.id.in_(list(record_ids)))
    return {row.id: read_record(row) for row in await db.execute(query)}


async def get_episode(db: AsyncConnection, episode_id: str) -> Episode:
    """The episode with its records; raises NotFoundError."""
    rows = (await db.execute(select(t.episodes).where(t.episodes.c.id == episode_id))).all()
    if not rows:
        raise NotFoundError(f"no episode has the id {episode_id}")
    return (await whole(db, rows))[0]


async def provenance(db: AsyncConnection, episode_ids: Sequence[str]) -> dict[str, Provenance]:
    """The events and verdicts of episodes, in their order."""
    r, link, said = t.records.c, t.episode_records.c, t.outcomes.c
    events: dict[str, list[StoredEvent]] = {episode_id: [] for episode_id in episode_ids}
    query = (
        select(link.episode_id, r.received_ms, r.body)
        .join(t.records, link.record_id == r.id)
        .where(link.episode_id.in_(episode_ids))
        .order_by(link.episode_id, link.position)
    )
    for row in await db.execute(query):
        events[row.episode_id].append(StoredEvent(row.received_ms, row.body))
    verdicts: dict[str, list[Verdict]] = {episode_id: [] for episode_id in episode_ids}
    told = select(said.id, said.episode_id, said.outcome, said.source, said.at_ms, r.body)
    told = told.join(t.records, said.record_id == r.id, isouter=True)
    told = told.where(said.episode_id.in_(episode_ids)).order_by(said.id)
    for verdict in await db.execute(told):
        verdicts[verdict.episode_id].append(
            Verdict(
                outcome=_outcome.decode(verdict.outcome),
                source=verdict.source,
                at_ms=verdict.at_ms,
                **told_with(verdict.body),
            )
        )
    return {id: Provenance(tuple(events[id]), tuple(verdicts[id])) for id in episode_ids}


def told_with(body: bytes | None) -> dict[str, str | None]:
    """What a verdict's own event says besides the outcome; nothing once that is gone."""
    event = parse_event(body) if body is not None else None
    if not isinstance(event, OutcomeEvent):
        return {}
    return {"version": event.version, "comment": event.comment, "event_id": event.event_id}


async def episode_page(
    db: AsyncConnection, filter: EpisodeFilter, *, after: str | None, offset: int, limit: int
) -> list[Episode]:
    """The next whole episodes after the one with the id `after`."""
    query = _ordered(select(t.episodes), filter).limit(limit).offset(offset)
    if after is not None:
        column = t.episodes.c.id
        query = query.where(column < after if filter.newest_first else column > after)
    return await whole(db, (await db.execute(query)).all())


async def list_episodes(db: AsyncConnection, filter: EpisodeFilter) -> list[EpisodeRow]:
    """Episodes without their records."""
    query = _ordered(select(t.episodes), filter).offset(filter.offset)
    query = query.limit(filter.limit)
    return [
        EpisodeRow(
            id=row.id,
            learn_model=row.learn_model,
            scenario=row.scenario,
            task_id=row.task_id,
            group_id=row.group_id,
            worker_id=row.worker_id,
            outcome=_outcome.decode(row.outcome),
            num_records=row.num_records,
            created_at_ms=row.created_at_ms,
            adapter_id=row.adapter_id,
        )
        for row in await db.execute(query)
    ]


async def count_episodes(db: AsyncConnection, filter: EpisodeFilter) -> int:
    """How many episodes fit; `limit` and `offset` are not looked at."""
    query = select(func.count()).select_from(t.episodes).where(*_conditions(filter))
    return int(await db.scalar(query) or 0)


async def recent_outcomes(
    db: AsyncConnection, scenario: str, learn_model: str, *, after_number: int, window: int
) -> tuple[Outcome, ...]:
    """Known outcomes of the newest `window` episodes that are new or changed after the n-th, newest first."""
    e, c = t.episodes.c, t.changed_episodes.c
    mine = (e.scenario == scenario, e.learn_model == learn_model)
    new = select(e.outcome).where(*mine, e.number > after_number).where(_IS_KNOWN)
    found = list((await db.execute(new.order_by(e.number.desc()).limit(window))).scalars())
    if len(found) < window:  # changed ones are older: a training has seen them
        changed = select(e.outcome).join(t.changed_episodes, c.episode_id == e.id)
        changed = changed.where(c.scenario == scenario, c.learn_model == learn_model, _IS_COUNTED)
        changed = changed.where(e.outcome_type != "unknown")
        changed = changed.order_by(c.number.desc()).limit(window - len(found))
        found += (await db.execute(changed)).scalars()
    return tuple(map(_outcome.decode, found))


async def tens(
    db: AsyncConnection, state: LearningState, scenario: str, learn_model: str, *, limit: int
) -> tuple[int, ...]:
    """Successes among each ten known outcomes since the last training, newest ten first.

    The tens are counted from the first known outcome ever, so that one more outcome moves none of them.
    """
    e = t.episodes.c
    begun = state.known_count % TEN
    newest = (
        select(e.outcome_type, e.number)
        .where(e.scenario == scenario, e.learn_model == learn_model)
        .where(e.number > state.last_train_count)
        .where(_IS_KNOWN)
        .order_by(e.number.desc())
        .limit(begun + TEN * limit)
        .subquery()
    )
    rank = func.row_number().over(order_by=newest.c.number.desc()) - 1 + TEN - begun
    is_success = case((newest.c.outcome_type == "success", 1), else_=0)
    ranked = select((rank // TEN).label("ten"), is_success.label("is_success")).subquery()
    query = select(func.sum(ranked.c.is_success)).where(ranked.c.ten >= 1)  # 0 is not full yet
    query = query.group_by(ranked.c.ten).having(func.count() == TEN).order_by(ranked.c.ten)
    return tuple(int(num) for num in (await db.execute(query)).scalars())


async def last_event_ms(db: AsyncConnection) -> int | None:
    """When the newest event came in; None when there is none any more."""
    r = t.records.c
    newest = select(func.max(r.id)).scalar_subquery()
    at_ms: int | None = await db.scalar(select(r.received_ms).where(r.id == newest))
    return at_ms


async def distinct_actions(db: AsyncConnection, scenario: str) -> list[str]:
    """Names of the actions in the scenario's episodes, sorted."""
    a = t.actions.c
    query = select(a.name).where(a.scenario == scenario).order_by(a.name)
    return list((await db.execute(query)).scalars())


async def stats(db: AsyncConnection, *, queue_depth: int) -> StoreStats:
    """Counts since the store was made, and of the queue now."""
    totals = (await db.execute(select(t.totals))).one()
    num_episodes = await db.scalar(select(func.sum(t.learning_states.c.episode_count)))
    open_count = await db.scalar(select(func.count()).select_from(t.groups).where(_IS_OPEN))
    return StoreStats(
        num_records=totals.num_records,
        num_episodes=int(num_episodes or 0),  # PostgreSQL's sum is a decimal
        num_duplicates=totals.num_duplicates,
        num_conflicts=totals.num_conflicts,
        num_late=totals.num_late,
        open_groups=open_count or 0,
        queue_depth=queue_depth,
    )


async def file_position(db: AsyncConnection, path: str) -> FilePosition | None:
    """How far a followed file has been read."""
    found = (
        await db.execute(select(t.file_positions).where(t.file_positions.c.path == path))
    ).first()
    return FilePosition(*found) if found else None


async def has_records(db: AsyncConnection) -> bool:
    """Whether any event was ever stored."""
    return bool(await db.scalar(select(t.totals.c.num_records)))


def read_record(row: _Row) -> Record:
    """The record of a row with `id`, `received_ms` and `body`."""
    try:
        event = parse_event(row.body)
        return record_from_event(event, received_ms=row.received_ms, record_id=row.id)
    except (ValidationError, msgspec.DecodeError) as error:
        raise StoreError(f"record {row.id} cannot be read: {error}") from error


async def whole(db: AsyncConnection, rows: Sequence[_Row]) -> list[Episode]:
    """The episodes of these rows, their records read with one query."""
    r, link = t.records.c, t.episode_records.c
    query = (
        select(link.episode_id, r.id, r.received_ms, r.body)
        .join(t.records, link.record_id == r.id)
        .where(link.episode_id.in_([row.id for row in rows]))
        .order_by(link.episode_id, link.position)
    )
    records: dict[str, list[Record]] = {}
    for found in await db.execute(query):
        records.setdefault(found.episode_id, []).append(read_record(found))
    return [_episode(row, records.get(row.id, [])) for row in rows]


def _episode(row: _Row, records: list[Record]) -> Episode:
    if len(records) != row.num_records:
        raise StoreError(
            f"episode {row.id} has {row.num_records} records, {len(records)} of them are stored"
        )
    return Episode(
        id=row.id,
        learn_model=row.learn_model,
        records=tuple(records),
        metadata=EpisodeMetadata(
            created_at_ms=row.created_at_ms,
            scenario=row.scenario,
            worker_id=row.worker_id,
            adapter_id=row.adapter_id,
            tags=_tags.decode(row.tags),
        ),
        task_id=row.task_id,
        group_id=row.group_id,
        outcome=_outcome.decode(row.outcome),
    )


def _ordered(query: Select[Any], filter: EpisodeFilter) -> Select[Any]:
    column = t.episodes.c.id
    return query.where(*_conditions(filter)).order_by(
        column.desc() if filter.newest_first else column.asc()
    )


def _conditions(filter: EpisodeFilter) -> list[ColumnElement[bool]]:
    e = t.episodes.c
    is_named = filter.task_id is not None or filter.group_id is not None
    equal = {
        # Of a name there are few episodes, of a scenario and learn model there may be millions. SQLite takes the
        # index with more columns, unless it is given none.
        (e.learn_model + "" if is_named else e.learn_model): filter.learn_model,
        (e.scenario + "" if is_named else e.scenario): filter.scenario,
        e.worker_id: filter.worker_id,
        e.task_id: filter.task_id,
        e.group_id: filter.group_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if filter.outcomes is not None:
        conditions.append(e.outcome_type.in_(sorted(filter.outcomes)))
    if filter.min_score is not None:
        conditions.append(e.score >= filter.min_score)
    if filter.since_ms is not None:
        conditions.append(e.created_at_ms >= filter.since_ms)
    if filter.until_ms is not None:
        conditions.append(e.created_at_ms <= filter.until_ms)
    return conditions
