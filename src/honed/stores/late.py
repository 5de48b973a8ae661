"""What is said of attempts that have ended reaches their episodes, some at a time.

Verdicts come in crowds: thousands on one attempt, or one on thousands of attempts. Neither may hold up the events
that come in meanwhile, nor cost more than its share.
"""

from typing import Final

from sqlalchemy import delete, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.records import OutcomeRecord, Record
from honed.stores import reads, verdicts
from honed.stores import tables as t
from honed.stores.grouping import ALL_ATTEMPTS
from honed.stores.verdicts import Word

_NAMES: Final = 50
"""Groups and episodes that are spoken of in one transaction."""
_WORDS: Final = 1_000
"""Outcomes in one transaction."""


async def settle(db: AsyncConnection) -> bool:
    """Add the oldest outcomes that found their group closed to the group's episodes; whether there were any."""
    waiting = t.late_outcomes.c
    query = select(t.late_outcomes).order_by(waiting.record_id, waiting.group_id).limit(_WORDS)
    late = (await db.execute(query)).all()
    if not late:
        return False
    records = await reads.outcome_records(db, {row.record_id for row in late})
    named: dict[object, list[str]] = {}
    words: dict[str, list[Word]] = {}
    num_heard = 0
    for record_id, group_id in late:
        record = _outcome(records[record_id])
        if group_id == ALL_ATTEMPTS and not record.episode_id:
            if num_heard == 0:
                await _spread(db, record_id, record)
                return True
            break
        name = (group_id, record.episode_id or record.group_id)
        if name not in named:
            if len(named) == _NAMES:
                break
            named[name] = await _episodes(db, group_id, record)
        num_heard += 1
        if group_id == ALL_ATTEMPTS and record.purpose != "work":
            continue
        for episode_id in named[name]:
            word = Word(record_id, record, joins=group_id >= ALL_ATTEMPTS)
            words.setdefault(episode_id, []).append(word)
    for episode_id, said in words.items():
        await verdicts.say(db, episode_id, said)
    last = late[num_heard - 1]
    done = (waiting.record_id < last.record_id) | (
        (waiting.record_id == last.record_id) & (waiting.group_id <= last.group_id)
    )
    await db.execute(delete(t.late_outcomes).where(done))
    return True


def _outcome(record: Record) -> OutcomeRecord:
    assert isinstance(record, OutcomeRecord)
    return record


async def _episodes(db: AsyncConnection, group_id: int, record: OutcomeRecord) -> list[str]:
    """The episodes that an outcome is about; see `tables.late_outcomes`."""
    e = t.episodes.c
    query = select(e.id)
    if group_id == ALL_ATTEMPTS:
        query = query.where(e.id == record.episode_id)
    elif group_id > 0:
        query = query.where(e.source_group == group_id)
    else:
        query = query.where(e.source_group == -group_id, e.group_id == record.group_id)
    return list((await db.execute(query)).scalars())


async def _spread(db: AsyncConnection, record_id: int, record: OutcomeRecord) -> None:
    """Have an outcome that is about all attempts of its group wait once for each of them.

    It becomes a verdict on each, and its record joins none: to forget one attempt must not take a record from another.
    """
    waiting, e = t.late_outcomes.c, t.episodes.c
    mine = (waiting.record_id == record_id) & (waiting.group_id == ALL_ATTEMPTS)
    await db.execute(delete(t.late_outcomes).where(mine))
    if record.outcome is None or record.purpose != "work" or not record.group_id:
        return
    attempts = select(literal(record_id), -e.source_group).where(e.group_id == record.group_id)
    each = insert(t.late_outcomes).from_select(["record_id", "group_id"], attempts.distinct())
    await db.execute(each)
