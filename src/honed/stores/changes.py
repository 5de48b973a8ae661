"""Which episodes stand otherwise than the last training saw them, so that the next one learns from them again.

An episode that a training has had (its number is not above `last_train_count`) is changed while the type or
score of its outcome is another than that training went by, or when a better answer was given since. A verdict
that says what stood already changes nothing, and one that is taken back undoes the change.

Each function but the queries runs inside its caller's write transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Row, and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.composition import Composition
from honed.domain.message import Message
from honed.domain.outcome import Outcome, Unknown
from honed.domain.records import OutcomeRecord
from honed.domain.run import Run
from honed.domain.verdict import Reach, Seen, Told, worth
from honed.stores import reads
from honed.stores import tables as t
from honed.stores.dialects import composition_of

_decode_outcome = msgspec.json.Decoder(Outcome).decode
_PAGE: Final = 500
NOTHING: Final = Told(Unknown())
"""What counts where nobody has said anything."""


_Row = Row[*tuple[Any, ...]]


class _Change(NamedTuple):
    """A row of `changed_episodes`: what the last training saw, and what came since."""

    saw: tuple[str, float]
    demonstration: int | None


async def look(db: AsyncConnection, episode_id: str) -> _Row | None:
    """An episode as it stands, and what `note` needs to know of it; in one query, for verdicts come in crowds."""
    e, s, c = t.episodes.c, t.learning_states.c, t.changed_episodes.c
    scenario = func.coalesce(e.scenario, "")
    remembered = and_(s.scenario == scenario, s.learn_model == e.learn_model)
    change = and_(c.scenario == scenario, c.learn_model == e.learn_model, c.episode_id == e.id)
    query = (
        select(
            *(e.id, e.scenario, e.learn_model, e.number, e.outcome),
            func.coalesce(s.last_train_count, 0).label("trained_count"),
            *(c.episode_id.label("change"), c.outcome_type, c.score, c.demonstration, c.counted),
        )
        .join(t.learning_states, remembered, isouter=True)
        .join(t.changed_episodes, change, isouter=True)
        .where(e.id == episode_id)
    )
    return (await db.execute(query)).first()


async def note(
    db: AsyncConnection, found: _Row, now: Outcome, *, demonstration: int | None = None
) -> int:
    """Take notice of what was just said of an episode; by how much it moves the number of changed ones.

    Args:
        db: in the transaction that stores it.
        found: the episode as `look` found it before.
        now: its outcome from now on.
        demonstration: the record of a better answer.
    """
    saw = worth(_decode_outcome(found.outcome))
    known = found.change is not None
    if known:
        saw = (found.outcome_type, found.score)
        demonstration = demonstration or found.demonstration
    change = _Change(saw, demonstration)
    row = _row(found, change, now, found.trained_count)
    if known:
        c = t.changed_episodes.c
        mine = (c.scenario == (found.scenario or ""), c.learn_model == found.learn_model)
        await db.execute(delete(t.changed_episodes).where(*mine, c.episode_id == found.id))
    if row is not None:
        await db.execute(insert(t.changed_episodes), [row])
    return (row["counted"] if row else 0) - (found.counted if known else 0)


async def settle(db: AsyncConnection, run: Run, *, trained_count: int, seen: Seen | None) -> None:
    """A training has read what there was: what came since then is all that stays changed.

    Args:
        db: in the transaction that writes down its end.
        run: the training.
        trained_count: the highest number of an episode that existed by then.
        seen: what it has read of what was said; None for all.
    """
    c = t.changed_episodes.c
    mine = (c.scenario == run.scenario, c.learn_model == run.learn_model)
    newest = seen.newest if seen else await reach(db)
    since = c.demonstration > newest.record
    answers = select(c.episode_id, c.demonstration).where(*mine, since)
    demonstrations = {row.episode_id: row.demonstration for row in await db.execute(answers)}
    await db.execute(delete(t.changed_episodes).where(*mine))
    said, e = t.outcomes.c, t.episodes.c
    query = select(said.episode_id).join(t.episodes, e.id == said.episode_id).distinct()
    query = query.where(said.id > newest.verdict, e.learn_model == run.learn_model)
    query = query.where(func.coalesce(e.scenario, "") == run.scenario)
    told = demonstrations.keys() | set((await db.execute(query)).scalars())
    for part in _parts(sorted(told)):
        await _settle(db, part, demonstrations, trained_count, seen or Seen(newest=newest))
    s = t.learning_states.c
    num = select(func.count()).select_from(t.changed_episodes).where(*mine, c.counted == 1)
    own = (s.scenario == run.scenario, s.learn_model == run.learn_model)
    counter = update(t.learning_states).where(*own)
    await db.execute(counter.values(changed_count=num.scalar_subquery()))


async def move_count(db: AsyncConnection, scenario: str, learn_model: str, more: int) -> None:
    """So many more episodes have changed, or fewer."""
    s = t.learning_states.c
    own = (s.scenario == scenario, s.learn_model == learn_model)
    counter = update(t.learning_states).where(*own)
    await db.execute(counter.values(changed_count=s.changed_count + more))


async def _settle(
    db: AsyncConnection,
    episode_ids: Sequence[str],
    demonstrations: Mapping[str, int],
    trained_count: int,
    seen: Seen,
) -> None:
    e = t.episodes.c
    query = select(e.id, e.scenario, e.learn_model, e.number, e.outcome)
    found = (await db.execute(query.where(e.id.in_(episode_ids)))).all()
    verdicts, composition = await verdicts_of(db, episode_ids), composition_of(db)
    rows = []
    for episode in found:
        limit = seen.reach(episode.id)
        saw = stood_at(composition, verdicts.get(episode.id, ()), limit.verdict) or NOTHING
        answer = demonstrations.get(episode.id)
        answer = answer if answer is not None and answer > limit.record else None
        change = _Change(worth(saw.outcome), answer)
        rows.append(_row(episode, change, _decode_outcome(episode.outcome), trained_count))
    if changed := [row for row in rows if row is not None]:
        await db.execute(insert(t.changed_episodes), changed)


def _row(episode: _Row, change: _Change, now: Outcome, trained_count: int) -> dict[str, Any] | None:
    """The row of an episode that has changed; None when it has not."""
    is_trained = episode.number <= trained_count
    # an answer to an episode that waits for its first training may come while that one reads
    if change.demonstration is None and not (is_trained and worth(now) != change.saw):
        return None
    return {
        "scenario": episode.scenario or "",
        "learn_model": episode.learn_model,
        "episode_id": episode.id,
        "outcome_type": change.saw[0],
        "score": change.saw[1],
        "demonstration": change.demonstration,
        "counted": int(is_trained),
        "number": episode.number,
    }


async def newest_answer(
    db: AsyncConnection, episode_id: str, said: Sequence[tuple[int, OutcomeRecord]]
) -> int | None:
    """The last record with a better answer, of records said now; not one that says what stands for its call already."""
    if all(record.corrected is None for _, record in said):
        return None
    r, link = t.records.c, t.episode_records.c
    query = select(r.id, r.received_ms, r.body).join(t.episode_records, link.record_id == r.id)
    query = query.where(link.episode_id == episode_id, r.type == "outcome")
    stands: dict[str | None, Message] = {}
    for row in await db.execute(query.order_by(link.position)):
        other = reads.read_record(row)
        if isinstance(other, OutcomeRecord) and other.corrected is not None:
            stands[other.receipt_id] = other.corrected
    newest = None
    for record_id, record in said:
        answer = record.corrected
        if answer is not None and stands.get(record.receipt_id) != answer:
            stands[record.receipt_id] = answer
            newest = record_id
    return newest


# ------------------------------------------------------------ queries


class Numbered(NamedTuple):
    """A verdict with its place in the order of arrival."""

    id: int
    told: Told


def stood_at(composition: Composition, verdicts: Sequence[Numbered], newest: int) -> Told | None:
    """The verdict that counted when `newest` was the newest of all."""
    return composition.stands([verdict.told for verdict in verdicts if verdict.id <= newest])


async def verdicts_of(db: AsyncConnection, episode_ids: Sequence[str]) -> dict[str, list[Numbered]]:
    """All that was said of these episodes, in order of arrival."""
    said, r, e = t.outcomes.c, t.records.c, t.episodes.c
    columns = (said.id, said.episode_id, said.outcome, said.source, said.record_id)
    query = select(*columns, r.body, e.learn_model)
    query = query.join(t.records, said.record_id == r.id, isouter=True)
    query = query.join(t.episodes, said.episode_id == e.id)
    query = query.where(said.episode_id.in_(episode_ids)).order_by(said.id)
    found: dict[str, list[Numbered]] = {}
    for row in await db.execute(query):
        found.setdefault(row.episode_id, []).append(Numbered(row.id, _told(row)))
    return found


def _told(row: _Row) -> Told:
    """A verdict; `own` where the learn model judged by itself, without a name where its event gives none."""
    is_learn_models = row.source == row.learn_model
    return Told(
        _decode_outcome(row.outcome),
        None if is_learn_models and row.record_id is not None else row.source,
        reads.told_with(row.body).get("version"),
        is_learn_models and row.record_id is None,
    )


async def reach(db: AsyncConnection) -> Reach:
    """Up to where the store holds what was said."""
    verdict = await db.scalar(select(func.max(t.outcomes.c.id)))
    record = await db.scalar(select(func.max(t.records.c.id)))
    removed = await db.scalar(select(t.removed.c.newest_record_id))
    return Reach(verdict or 0, max(record or 0, removed or 0))


async def changed(db: AsyncConnection, scenario: str, learn_model: str, *, limit: int) -> list[str]:
    """Episodes that have changed since the last training saw them, the newest first."""
    c = t.changed_episodes.c
    query = select(c.episode_id).order_by(c.episode_id.desc()).limit(limit)
    query = query.where(c.scenario == scenario, c.learn_model == learn_model, c.counted == 1)
    return list((await db.execute(query)).scalars())


def _parts(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE))
