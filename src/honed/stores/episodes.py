"""Writes of episodes and verdicts; each function runs inside its caller's write transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, is_known, is_success, score
from honed.domain.records import OutcomeRecord
from honed.domain.times import now_ms
from honed.errors import NotFoundError, StoreError
from honed.ports import IncomingEvent
from honed.stores import reads
from honed.stores import tables as t

_decode_outcome = msgspec.json.Decoder(Outcome).decode


class Said(NamedTuple):
    """A verdict and who said it."""

    outcome: Outcome
    source: str | None = None
    record_id: int | None = None


async def close_group(
    db: AsyncConnection, group_id: int, episodes: Sequence[Episode], num_records: int
) -> bool:
    """Store the episodes of a group and close it; False if it has other records than were read."""
    group = (await db.execute(select(t.groups).where(t.groups.c.id == group_id))).first()
    if group is None:
        raise NotFoundError(f"no group has the id {group_id}")
    if group.closed or group.num_records != num_records:
        return False
    for episode in episodes:
        await _insert_episode(db, episode, source_group=group_id)
    await db.execute(
        update(t.groups).where(t.groups.c.id == group_id).values(closed=1, held_until_ms=0)
    )
    return True


async def hold_group(db: AsyncConnection, group_id: int, *, until_ms: int) -> None:
    """Keep a group from being due until then, or until it gets another record."""
    query = update(t.groups).where(t.groups.c.id == group_id, t.groups.c.closed == 0)
    await db.execute(query.values(held_until_ms=until_ms))


async def add_episode(
    db: AsyncConnection, episode: Episode, lines: Sequence[IncomingEvent]
) -> bool:
    """Store a ready-made episode, its events and a closed group; False if its task is known."""
    e = t.episodes.c
    same_task = select(e.id).where(
        e.task_id == episode.task_id,
        e.learn_model == episode.learn_model,
        e.scenario.is_not_distinct_from(episode.metadata.scenario),
    )
    if episode.task_id is not None and (await db.execute(same_task)).first() is not None:
        return False
    record_ids = [await _insert_record(db, line) for line in lines]
    num_new = sum(is_new for _, is_new in record_ids)
    group_id = await _closed_group(db, episode, lines)
    ids = [record_id for record_id, _ in record_ids]
    await _insert_episode(db, episode, source_group=group_id, record_ids=ids)
    await db.execute(update(t.totals).values(num_records=t.totals.c.num_records + num_new))
    return True


async def set_outcome(db: AsyncConnection, episode_id: str, said: Said) -> None:
    """Append a verdict, make it the episode's outcome and move the counters."""
    e = t.episodes.c
    query = select(e.scenario, e.learn_model, e.outcome).where(e.id == episode_id)
    episode = (await db.execute(query)).first()
    if episode is None:
        raise NotFoundError(f"no episode has the id {episode_id}")
    await _append_outcome(db, episode_id, said)
    await db.execute(
        update(t.episodes).where(e.id == episode_id).values(**_outcome_columns(said.outcome))
    )
    now, before = said.outcome, _decode_outcome(episode.outcome)
    more_known = int(is_known(now)) - int(is_known(before))
    more_successes = int(is_success(now)) - int(is_success(before))
    s = t.learning_states.c
    await db.execute(
        update(t.learning_states)
        .where(s.scenario == (episode.scenario or ""), s.learn_model == episode.learn_model)
        .values(
            known_count=s.known_count + more_known,
            success_count=s.success_count + more_successes,
        )
    )


async def settle_late_outcomes(db: AsyncConnection) -> None:
    """Make every outcome that found its group closed the outcome of the group's episodes."""
    late = (await db.execute(select(t.late_outcomes).order_by(t.late_outcomes.c.record_id))).all()
    records = await reads.outcome_records(db, {row.record_id for row in late})
    for row in late:
        record = records[row.record_id]
        assert isinstance(record, OutcomeRecord)
        e = t.episodes.c
        query = select(e.id).where(e.source_group == row.group_id)
        for episode_id in (await db.execute(query)).scalars().all():
            said = Said(record.outcome, record.source, row.record_id)
            await set_outcome(db, episode_id, said)
    await db.execute(delete(t.late_outcomes))


async def _insert_episode(
    db: AsyncConnection,
    episode: Episode,
    *,
    source_group: int,
    record_ids: Sequence[int] | None = None,
) -> None:
    number = await _count_episode(db, episode)
    ids = [_stored_id(r.record_id) for r in episode.records] if record_ids is None else record_ids
    meta = episode.metadata
    await db.execute(
        insert(t.episodes).values(
            id=episode.id,
            learn_model=episode.learn_model,
            scenario=meta.scenario,
            number=number,
            source_group=source_group,
            task_id=episode.task_id,
            group_id=episode.group_id,
            worker_id=meta.worker_id,
            num_records=len(ids),
            created_at_ms=meta.created_at_ms,
            adapter_id=meta.adapter_id,
            tags=msgspec.json.encode(meta.tags).decode(),
            **_outcome_columns(episode.outcome),
        )
    )
    links = [
        {"episode_id": episode.id, "position": position, "record_id": record_id}
        for position, record_id in enumerate(ids)
    ]
    if links:
        await db.execute(insert(t.episode_records), links)
    names = sorted({action.action for action in episode.actions})
    if names:
        rows = [{"scenario": meta.scenario or "", "name": name} for name in names]
        await db.execute(upsert(t.actions).on_conflict_do_nothing(), rows)
    if is_known(episode.outcome):
        await _append_outcome(db, episode.id, Said(episode.outcome, episode.learn_model))


async def _count_episode(db: AsyncConnection, episode: Episode) -> int:
    """Move the counters for a new episode; its number."""
    s = t.learning_states.c
    known, success = int(is_known(episode.outcome)), int(is_success(episode.outcome))
    query = upsert(t.learning_states).values(
        scenario=episode.metadata.scenario or "",
        learn_model=episode.learn_model,
        episode_count=1,
        known_count=known,
        success_count=success,
    )
    query = query.on_conflict_do_update(
        index_elements=[s.scenario, s.learn_model],
        set_={
            "episode_count": s.episode_count + 1,
            "known_count": s.known_count + known,
            "success_count": s.success_count + success,
        },
    )
    return int((await db.execute(query.returning(s.episode_count))).scalar_one())


async def _append_outcome(db: AsyncConnection, episode_id: str, said: Said) -> None:
    await db.execute(
        insert(t.outcomes).values(
            episode_id=episode_id,
            outcome=_outcome_columns(said.outcome)["outcome"],
            source=said.source,
            record_id=said.record_id,
            at_ms=now_ms(),
        )
    )


async def _insert_record(db: AsyncConnection, line: IncomingEvent) -> tuple[int, bool]:
    """The id of the line's record, and whether it is new."""
    columns = dict(zip(IncomingEvent._fields[:10], line[:10], strict=True))
    query = upsert(t.records).values(**columns)
    query = query.on_conflict_do_nothing(index_elements=["event_id"])
    new_id = (await db.execute(query.returning(t.records.c.id))).scalar()
    if new_id is not None:
        return int(new_id), True
    r = t.records.c
    found = (await db.execute(select(r.id, r.digest).where(r.event_id == line.event_id))).one()
    if found.digest != line.digest:
        raise StoreError(f"event {line.event_id} is stored already, with other content")
    return int(found.id), False


async def _closed_group(
    db: AsyncConnection, episode: Episode, lines: Sequence[IncomingEvent]
) -> int:
    """A closed group of the lines' key, so that what still comes for the task finds its episode."""
    marks = (
        mark.key
        for line in lines
        for mark in line.groups
        if mark.learn_model == episode.learn_model
    )
    key = next(marks, episode.task_id or episode.id)
    times = [line.received_ms for line in lines] or [episode.metadata.created_at_ms]
    g = t.groups.c
    query = upsert(t.groups).values(
        learn_model=episode.learn_model,
        group_key=key,
        num_records=len(lines),
        first_ms=min(times),
        last_ms=max(times),
        closing=1,
        closed=1,
    )
    query = query.on_conflict_do_update(
        index_elements=[g.learn_model, g.group_key],
        set_={"closed": 1, "held_until_ms": 0, "last_ms": func.max(g.last_ms, max(times))},
    )
    group_id = int((await db.execute(query.returning(g.id))).scalar_one())
    calls = {line.receipt_id for line in lines if line.receipt_id and line.type != "outcome"}
    if calls:
        links = [{"receipt_id": receipt_id, "group_id": group_id} for receipt_id in sorted(calls)]
        await db.execute(upsert(t.receipts).on_conflict_do_nothing(), links)
    return group_id


def _outcome_columns(outcome: Outcome) -> dict[str, Any]:
    return {
        "outcome_type": outcome.__struct_config__.tag,
        "score": score(outcome),
        "outcome": msgspec.json.encode(outcome).decode(),
    }


def _stored_id(record_id: int | None) -> int:
    if record_id is None:
        raise StoreError("an episode names a record that is not stored: its record_id is None")
    return record_id
