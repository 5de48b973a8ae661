"""Writes of episodes; each function runs inside its caller's write transaction."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.composition import PLAIN, Composition
from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Unknown, is_known, is_success
from honed.domain.records import OutcomeRecord, records_of
from honed.domain.traits import traits
from honed.domain.verdict import Told
from honed.errors import StoreError, ValidationError
from honed.learn_models import attempt
from honed.ports import Closing, IncomingEvent, Verdict
from honed.stores import tables as t
from honed.stores.dialects import composition_of, is_postgres, upsert
from honed.stores.grouping import UNFIT, is_fit_for_server
from honed.stores.verdicts import Said, outcome_columns, outcome_row

_State = tuple[str, str]
"""Scenario and learn model: what counters are kept for."""


class _New(NamedTuple):
    """An episode to insert and where it comes from."""

    episode: Episode
    source_group: int
    record_ids: Sequence[int]
    verdicts: Sequence[Verdict] = ()
    """What was said about it where it comes from; empty: what its records say."""
    said_by: Mapping[str, int] = {}
    """The records of those verdicts, by event."""
    own: Outcome | None = None
    """What the attempt says of itself, where others spoke of it too and the composition is not plain."""


async def close_groups(db: AsyncConnection, closings: Sequence[Closing]) -> set[int]:
    """Store the episodes of groups and close them, but those with other records than were read."""
    g = t.groups.c
    query = select(g.id, g.num_records, g.closed)
    query = query.where(g.id.in_([closing.group_id for closing in closings]))
    groups = {group.id: group for group in await db.execute(query)}
    unchanged = [
        closing
        for closing in closings
        # one that is gone was forgotten since it was read
        if closing.group_id in groups
        and not groups[closing.group_id].closed
        and groups[closing.group_id].num_records == closing.num_records
    ]
    new = [
        _New(episode, closing.group_id, [_stored_id(r.record_id) for r in episode.records])
        for closing in unchanged
        for episode in closing.episodes
    ]
    await _insert_episodes(db, new)
    closed = {closing.group_id for closing in unchanged}
    await db.execute(update(t.groups).where(g.id.in_(closed)).values(closed=1, held_until_ms=0))
    return closed


async def hold_groups(db: AsyncConnection, group_ids: Sequence[int], *, until_ms: int) -> None:
    """Keep groups from being due until then, each until it gets another record."""
    query = update(t.groups).where(t.groups.c.id.in_(group_ids), t.groups.c.closed == 0)
    await db.execute(query.values(held_until_ms=until_ms))


async def add_episode(
    db: AsyncConnection,
    episode: Episode,
    lines: Sequence[IncomingEvent],
    verdicts: Sequence[Verdict] = (),
) -> bool:
    """Store a ready-made episode, its events and a closed group; False if the store has or had it."""
    if await _is_known(db, episode, _group_key(episode, lines)) or await _is_forgotten(db, lines):
        return False
    ids, num_new = await _insert_records(db, lines)
    group_id = await _closed_group(db, episode, lines)
    said_by = {line.event_id: id for line, id in zip(lines, ids, strict=True) if line.event_id}
    await _insert_episodes(db, [_New(episode, group_id, ids, verdicts, said_by)])
    await db.execute(update(t.totals).values(num_records=t.totals.c.num_records + num_new))
    return True


async def _is_known(db: AsyncConnection, episode: Episode, group_key: str) -> bool:
    """Whether the store has the episode, or one of the same worker's attempt.

    Episodes of several workers may share a task, so the task alone does not tell.
    """
    e, g = t.episodes.c, t.groups.c
    same_id = select(e.id).where(e.id == episode.id)
    same_attempt = select(e.id).where(
        e.learn_model == episode.learn_model,
        e.scenario.is_not_distinct_from(episode.metadata.scenario),
        e.worker_id.is_not_distinct_from(episode.metadata.worker_id),
    )
    group = select(g.id).where(g.learn_model == episode.learn_model, g.group_key == group_key)
    queries = [same_id, same_attempt.where(e.source_group.in_(group))]
    if episode.task_id is not None:
        queries.append(same_attempt.where(e.task_id == episode.task_id))
    for query in queries:
        if (await db.execute(query.limit(1))).first() is not None:
            return True
    return False


async def _is_forgotten(db: AsyncConnection, lines: Sequence[IncomingEvent]) -> bool:
    """Whether one of the events was forgotten: then the episode stays so."""
    digests = [line.digest for line in lines if line.event_id is not None]
    for start in range(0, len(digests), 500):
        query = select(t.forgotten.c.digest)
        query = query.where(t.forgotten.c.digest.in_(digests[start : start + 500]))
        if (await db.execute(query.limit(1))).first() is not None:
            return True
    return False


async def _insert_episodes(db: AsyncConnection, new: Sequence[_New]) -> None:
    """Insert episodes with what hangs on them, in a few statements however many they are."""
    if not new:
        return
    composition = composition_of(db)
    if not composition.is_plain:
        new = [_composed(entry, composition) for entry in new]
    numbers = await _count_episodes(db, [entry.episode for entry in new])
    rows = [_episode_row(entry, number) for entry, number in zip(new, numbers, strict=True)]
    await db.execute(insert(t.episodes), rows)
    links = [
        {"episode_id": entry.episode.id, "position": position, "record_id": record_id}
        for entry in new
        for position, record_id in enumerate(entry.record_ids)
    ]
    if links:
        await db.execute(insert(t.episode_records), links)
    names = {
        (entry.episode.metadata.scenario or "", action.action)
        for entry in new
        for action in entry.episode.actions
    }
    if names:
        actions = [{"scenario": scenario, "name": name} for scenario, name in sorted(names)]
        await db.execute(upsert(db, t.actions).on_conflict_do_nothing(), actions)
    verdicts = [row for entry in new for row in _verdict_rows(entry, composition)]
    if verdicts:
        await db.execute(insert(t.outcomes), verdicts)


async def _count_episodes(db: AsyncConnection, episodes: Sequence[Episode]) -> list[int]:
    """Move the counters for new episodes; the number of each."""
    added, known, successes = Counter[_State](), Counter[_State](), Counter[_State]()
    for episode in episodes:
        added[_state(episode)] += 1
        known[_state(episode)] += is_known(episode.outcome)
        successes[_state(episode)] += is_success(episode.outcome)
    numbers: dict[_State, Iterator[int]] = {}
    for state, num in added.items():
        total = await _move_counters(db, state, num, known[state], successes[state])
        numbers[state] = iter(range(total - num + 1, total + 1))
    return [next(numbers[_state(episode)]) for episode in episodes]


async def _move_counters(
    db: AsyncConnection, state: _State, added: int, known: int, successes: int
) -> int:
    s = t.learning_states.c
    scenario, learn_model = state
    query = upsert(db, t.learning_states).values(
        scenario=scenario,
        learn_model=learn_model,
        episode_count=added,
        known_count=known,
        success_count=successes,
    )
    query = query.on_conflict_do_update(
        index_elements=[s.scenario, s.learn_model],
        set_={
            "episode_count": s.episode_count + added,
            "known_count": s.known_count + known,
            "success_count": s.success_count + successes,
        },
    )
    return int((await db.execute(query.returning(s.episode_count))).scalar_one())


def _state(episode: Episode) -> _State:
    return episode.metadata.scenario or "", episode.learn_model


def _episode_row(new: _New, number: int) -> dict[str, Any]:
    episode, meta = new.episode, new.episode.metadata
    return {
        "id": episode.id,
        "learn_model": episode.learn_model,
        "scenario": meta.scenario,
        "number": number,
        "source_group": new.source_group,
        "task_id": episode.task_id,
        "group_id": episode.group_id,
        "worker_id": meta.worker_id,
        "num_records": len(new.record_ids),
        "created_at_ms": meta.created_at_ms,
        "adapter_id": meta.adapter_id,
        "tags": msgspec.json.encode(meta.tags).decode(),
        **traits(episode)._asdict(),
        **outcome_columns(episode.outcome),
    }


def _composed(new: _New, composition: Composition) -> _New:
    """The entry with the outcome that its verdicts make; where nobody spoke of it, it stays as it is."""
    episode = new.episode
    if new.verdicts:
        name = episode.learn_model
        told = [
            Told(
                said.outcome,
                said.source,
                said.version,
                (said.event_id, said.source) == (None, name),
            )
            for said in new.verdicts
        ]
        own = None
    else:
        spoken = [r for r in episode.records_of(OutcomeRecord) if r.outcome is not None]
        if not spoken:
            return new
        own = attempt.verdict([r for r in episode.records if not isinstance(r, OutcomeRecord)])
        told = [Told(own, episode.learn_model, own=True)] if own else []
        told += [Told(r.outcome, r.source, r.version) for r in spoken if r.outcome is not None]
    stands = composition.stands(told)
    outcome = stands.outcome if stands else Unknown()
    return new._replace(episode=msgspec.structs.replace(episode, outcome=outcome), own=own)


def _verdict_rows(new: _New, composition: Composition) -> list[dict[str, Any]]:
    episode = new.episode
    if new.verdicts:
        return [
            outcome_row(
                episode.id, Said(said.outcome, said.source, new.said_by.get(said.event_id or ""))
            )
            | {"at_ms": said.at_ms}
            for said in new.verdicts
        ]
    told = [
        Said(record.outcome, record.source or episode.learn_model, record.record_id, record.version)
        for record in records_of(episode.records, OutcomeRecord)
        if record.outcome is not None
    ]
    if told and not composition.is_plain:
        own = [Said(new.own, episode.learn_model)] if new.own else []
        return [outcome_row(episode.id, said) for said in (*own, *told)]
    stands = PLAIN.stands([Told(said.outcome, said.source, said.version) for said in told])
    if is_known(episode.outcome) and (stands is None or stands.outcome != episode.outcome):
        told.append(Said(episode.outcome, episode.learn_model))  # the learn model's own
    return [outcome_row(episode.id, said) for said in told]


async def _insert_records(
    db: AsyncConnection, lines: Sequence[IncomingEvent]
) -> tuple[list[int], int]:
    """The ids of the lines' records, and how many of them are new."""
    r, ids, num_new = t.records.c, list[int](), 0
    newest = await db.scalar(select(func.max(r.id))) or 0
    removed = await db.scalar(select(t.removed.c.newest_record_id)) or 0
    next_id = max(newest, removed) + 1
    for line in lines:
        if is_postgres(db) and not is_fit_for_server(line):
            raise ValidationError(UNFIT)
        columns = dict(zip(IncomingEvent._fields[:10], line[:10], strict=True))
        query = upsert(db, t.records).values(id=next_id + num_new, **columns)
        query = query.on_conflict_do_nothing(index_elements=["event_id"])
        new_id = (await db.execute(query.returning(r.id))).scalar()
        if new_id is not None:
            num_new += 1
            ids.append(int(new_id))
            continue
        same = select(r.id, r.digest, r.body).where(r.event_id == line.event_id)
        found = (await db.execute(same)).one()
        if found.digest != line.digest and bytes(found.body) != line.body:
            raise ValidationError(f"event {line.event_id} is stored already, with other content")
        ids.append(int(found.id))
    return ids, num_new


async def _closed_group(
    db: AsyncConnection, episode: Episode, lines: Sequence[IncomingEvent]
) -> int:
    """A closed group of the lines' key, so that what still comes for the task finds its episode."""
    times = [line.received_ms for line in lines] or [episode.metadata.created_at_ms]
    g = t.groups.c
    query = upsert(db, t.groups).values(
        learn_model=episode.learn_model,
        group_key=_group_key(episode, lines),
        num_records=len(lines),
        first_ms=min(times),
        last_ms=max(times),
        closing=1,
        closed=1,
    )
    query = query.on_conflict_do_update(
        index_elements=[g.learn_model, g.group_key],
        set_={"closed": 1, "held_until_ms": 0, "last_ms": _later(g.last_ms, max(times))},
    )
    group_id = int((await db.execute(query.returning(g.id))).scalar_one())
    calls = {line.receipt_id for line in lines if line.receipt_id and line.type != "outcome"}
    if calls:
        links = [{"receipt_id": receipt_id, "group_id": group_id} for receipt_id in sorted(calls)]
        await db.execute(upsert(db, t.receipts).on_conflict_do_nothing(), links)
    return group_id


def _later(column: ColumnElement[int], at_ms: int) -> ColumnElement[int]:
    return case((column > at_ms, column), else_=at_ms)


def _group_key(episode: Episode, lines: Sequence[IncomingEvent]) -> str:
    marks = (
        mark.key
        for line in lines
        for mark in line.groups
        if mark.learn_model == episode.learn_model
    )
    return next(marks, episode.task_id or episode.id)


def _stored_id(record_id: int | None) -> int:
    if record_id is None:
        raise StoreError("an episode names a record that is not stored: its record_id is None")
    return record_id
