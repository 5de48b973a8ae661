"""Writes of what is said about episodes; each function runs inside its caller's write transaction."""

from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.composition import is_judged
from honed.domain.outcome import Outcome, is_known, is_success, score
from honed.domain.records import OutcomeRecord
from honed.domain.times import now_ms
from honed.errors import NotFoundError
from honed.stores import changes, reads
from honed.stores import tables as t
from honed.stores.dialects import composition_of
from honed.stores.grouping import ALL_ATTEMPTS

_AT_ONCE: Final = 50
"""Late outcomes in one transaction."""
_decode_outcome = msgspec.json.Decoder(Outcome).decode


class Said(NamedTuple):
    """A verdict and who said it."""

    outcome: Outcome
    source: str | None = None
    record_id: int | None = None
    version: str | None = None


async def set_outcome(db: AsyncConnection, episode_id: str, said: Said) -> None:
    """Append a verdict, make the one that stands the episode's outcome and move the counters."""
    episode = await changes.look(db, episode_id)
    if episode is None:
        raise NotFoundError(f"no episode has the id {episode_id}")
    await db.execute(insert(t.outcomes), [outcome_row(episode_id, said)])
    before, now = _decode_outcome(episode.outcome), await _standing(db, episode_id, said)
    more_changed = await changes.note(db, episode, now)
    if now == before and not more_changed:
        return
    e, s = t.episodes.c, t.learning_states.c
    await db.execute(update(t.episodes).where(e.id == episode_id).values(**outcome_columns(now)))
    more_known = int(is_known(now)) - int(is_known(before))
    more_successes = int(is_success(now)) - int(is_success(before))
    await db.execute(
        update(t.learning_states)
        .where(s.scenario == (episode.scenario or ""), s.learn_model == episode.learn_model)
        .values(
            known_count=s.known_count + more_known,
            success_count=s.success_count + more_successes,
            changed_count=s.changed_count + more_changed,
        )
    )


async def _standing(db: AsyncConnection, episode_id: str, newest: Said) -> Outcome:
    """The outcome that counts, now that `newest` is the last verdict."""
    composition = composition_of(db)
    is_unversioned = newest.source is None or newest.version is None
    if composition.is_plain and is_unversioned and not is_judged(newest.source):
        return newest.outcome
    verdicts = await changes.verdicts_of(db, [episode_id])
    told = composition.stands([verdict.told for verdict in verdicts[episode_id]])
    return (told or changes.NOTHING).outcome


async def say(db: AsyncConnection, episode_id: str, record_id: int, record: OutcomeRecord) -> None:
    """Add to a closed episode what was said about it later: its record, and the verdict if it has one."""
    is_new_answer = await changes.is_new_answer(db, episode_id, record)
    link = t.episode_records
    newest = select(func.max(link.c.position)).where(link.c.episode_id == episode_id)
    position = await db.scalar(newest)
    values = {
        "episode_id": episode_id,
        "position": 0 if position is None else position + 1,
        "record_id": record_id,
    }
    await db.execute(insert(link), [values])
    e = t.episodes.c
    more = update(t.episodes).where(e.id == episode_id).values(num_records=e.num_records + 1)
    await db.execute(more)
    if record.outcome is not None:
        said = Said(record.outcome, record.source, record_id, record.version)
        await set_outcome(db, episode_id, said)
    if is_new_answer and (episode := await changes.look(db, episode_id)):
        now = _decode_outcome(episode.outcome)
        if moved := await changes.note(db, episode, now, demonstration=record_id):
            await changes.move_count(db, episode.scenario or "", episode.learn_model, moved)


async def _say_of_all(db: AsyncConnection, record_id: int, record: OutcomeRecord) -> None:
    """Make a verdict the newest of each episode of its group.

    Its record joins none of them: to forget one attempt must not take a record from another.
    """
    if record.outcome is None or record.purpose != "work" or not record.group_id:
        return
    e = t.episodes.c
    query = select(e.id).where(e.group_id == record.group_id)
    said = Said(record.outcome, record.source, record_id, record.version)
    for episode_id in (await db.execute(query)).scalars().all():
        await set_outcome(db, episode_id, said)


async def settle_late_outcomes(db: AsyncConnection) -> bool:
    """Add the oldest outcomes that found their group closed to the group's episodes; whether there were any.

    A few at a time, so that events pass between two transactions when a judge has looked at thousands.
    """
    waiting = t.late_outcomes.c
    query = select(t.late_outcomes).order_by(waiting.record_id, waiting.group_id).limit(_AT_ONCE)
    late = (await db.execute(query)).all()
    records = await reads.outcome_records(db, {row.record_id for row in late})
    for row in late:
        record = records[row.record_id]
        assert isinstance(record, OutcomeRecord)
        e = t.episodes.c
        if row.group_id == ALL_ATTEMPTS and record.episode_id:
            known = select(e.id).where(e.id == record.episode_id)
            if record.purpose == "work" and await db.scalar(known):
                await say(db, record.episode_id, row.record_id, record)
            continue
        if row.group_id == ALL_ATTEMPTS:
            await _say_of_all(db, row.record_id, record)
            continue
        query = select(e.id).where(e.source_group == row.group_id)
        for episode_id in (await db.execute(query)).scalars().all():
            await say(db, episode_id, row.record_id, record)
    if late:
        last = late[-1]
        done = (waiting.record_id < last.record_id) | (
            (waiting.record_id == last.record_id) & (waiting.group_id <= last.group_id)
        )
        await db.execute(delete(t.late_outcomes).where(done))
    return bool(late)


def outcome_row(episode_id: str, said: Said) -> dict[str, Any]:
    """The row of a verdict."""
    return {
        "episode_id": episode_id,
        "outcome": outcome_columns(said.outcome)["outcome"],
        "source": said.source,
        "record_id": said.record_id,
        "at_ms": now_ms(),
    }


def outcome_columns(outcome: Outcome) -> dict[str, Any]:
    """What an episode's row says of its outcome."""
    return {
        "outcome_type": outcome.__struct_config__.tag,
        "score": score(outcome),
        "outcome": msgspec.json.encode(outcome).decode(),
    }
