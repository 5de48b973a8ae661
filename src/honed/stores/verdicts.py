"""Writes of what is said about episodes; each function runs inside its caller's write transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.composition import is_judged
from honed.domain.outcome import Outcome, is_known, is_success, score
from honed.domain.records import OutcomeRecord
from honed.domain.times import now_ms
from honed.errors import NotFoundError
from honed.stores import changes
from honed.stores import tables as t
from honed.stores.dialects import composition_of

_decode_outcome = msgspec.json.Decoder(Outcome).decode


class Said(NamedTuple):
    """A verdict and who said it."""

    outcome: Outcome
    source: str | None = None
    record_id: int | None = None
    version: str | None = None


class Word(NamedTuple):
    """What somebody said of an episode that has ended."""

    record_id: int
    record: OutcomeRecord
    joins: bool = True
    """Whether the record is the episode's from now on; one that is about several episodes is nobody's."""


async def set_outcomes(db: AsyncConnection, episode_id: str, said: Sequence[Said]) -> None:
    """Append verdicts, make the one that stands the episode's outcome and move the counters."""
    episode = await changes.look(db, episode_id)
    if episode is None:
        raise NotFoundError(f"no episode has the id {episode_id}")
    await db.execute(insert(t.outcomes), [outcome_row(episode_id, each) for each in said])
    before, now = _decode_outcome(episode.outcome), await _standing(db, episode_id, said[-1])
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


async def say(db: AsyncConnection, episode_id: str, words: Sequence[Word]) -> None:
    """Add to a closed episode what was said about it later, in order: the records, and the verdicts they bring.

    The outcome is made of all verdicts there are, and made once however many come together.
    """
    joining = [word for word in words if word.joins]
    answers = [(word.record_id, word.record) for word in joining]
    answer = await changes.newest_answer(db, episode_id, answers)
    if joining:
        await _join(db, episode_id, joining)
    said = [
        Said(record.outcome, record.source, record_id, record.version)
        for record_id, record, _ in words
        if record.outcome is not None
    ]
    if said:
        await set_outcomes(db, episode_id, said)
    if answer is not None and (episode := await changes.look(db, episode_id)):
        now = _decode_outcome(episode.outcome)
        if moved := await changes.note(db, episode, now, demonstration=answer):
            await changes.move_count(db, episode.scenario or "", episode.learn_model, moved)


async def _join(db: AsyncConnection, episode_id: str, words: Sequence[Word]) -> None:
    e, link = t.episodes.c, t.episode_records
    newest = select(func.max(link.c.position)).where(link.c.episode_id == episode_id)
    position = await db.scalar(newest)
    first = 0 if position is None else position + 1
    links = [
        {"episode_id": episode_id, "position": place, "record_id": word.record_id}
        for place, word in enumerate(words, first)
    ]
    await db.execute(insert(link), links)
    more = update(t.episodes).where(e.id == episode_id)
    await db.execute(more.values(num_records=e.num_records + len(words)))


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
