"""`ports.Rewards` on SQL: how far verifiers have come, and what alarms and agreement compare.

Every query walks an index in order and ends after a bounded number of rows, however large the store is and whoever
else's episodes are in it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import func, insert, select, update

from honed.domain.composition import is_judged
from honed.domain.episode import Episode
from honed.domain.outcome import Outcome, Unknown, is_known, is_success
from honed.domain.verdict import worth
from honed.ports import Counted, Opinion
from honed.stores import changes, reads
from honed.stores import tables as t
from honed.stores.dialects import composition_of
from honed.stores.transactions import Transactions

_decode_outcome = msgspec.json.Decoder(Outcome).decode
_MS_DIGITS: Final = 13
_GROUP_MAX: Final = 10_000
"""Attempts of a group that are looked at: whoever sends the events names the groups."""
_WORDS_EACH: Final = 10
"""Verdicts that are read for each one asked for: all words on an episode, but not those of a source run wild."""


class SqlRewards:
    """What verifiers, judges and alarms ask of a store."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read
        self._write = transactions.write

    async def position(self, scenario: str, learn_model: str, source: str) -> str:
        """Up to which episode somebody has been asked; see `ports.Rewards`."""
        a, e = t.asked.c, t.episodes.c
        mine = (a.scenario == scenario, a.learn_model == learn_model, a.source == source)
        async with self._read() as db:
            known: str | None = await db.scalar(select(a.episode_id).where(*mine))
        if known is not None:
            return known
        async with self._write() as db:
            newest: str = await db.scalar(select(func.max(e.id))) or ""
            row = {"scenario": scenario, "learn_model": learn_model, "source": source}
            await db.execute(insert(t.asked), [row | {"episode_id": newest}])
        return newest

    async def advance(
        self, scenario: str, learn_model: str, source: str, *, episode_id: str
    ) -> None:
        """It has been asked up to there."""
        a = t.asked.c
        mine = (a.scenario == scenario, a.learn_model == learn_model, a.source == source)
        async with self._write() as db:
            await db.execute(update(t.asked).where(*mine).values(episode_id=episode_id))

    async def episodes_after(
        self, scenario: str, learn_model: str, *, after: str, until_ms: int, limit: int
    ) -> list[Episode]:
        """Whole episodes after that one, made by then, in the order of their ids."""
        e = t.episodes.c
        # ids begin with the time: the primary key alone tells which are due
        until = f"{until_ms + 1:0{_MS_DIGITS}d}"
        query = select(t.episodes).where(e.id > after, e.id < until)
        query = query.where(e.scenario == scenario, e.learn_model == learn_model)
        async with self._read() as db:
            rows = (await db.execute(query.order_by(e.id).limit(limit))).all()
            return await reads.whole(db, rows)

    async def episodes(self, episode_ids: Sequence[str]) -> list[Episode]:
        """Whole episodes in the order of their ids given; those that are gone are left out."""
        query = select(t.episodes).where(t.episodes.c.id.in_(episode_ids))
        async with self._read() as db:
            found = await reads.whole(db, (await db.execute(query)).all())
        by_id = {episode.id: episode for episode in found}
        return [by_id[id] for id in episode_ids if id in by_id]

    async def group(self, scenario: str, learn_model: str, group_id: str) -> list[str]:
        """The ids of the attempts of a group, oldest first, the first ten thousand."""
        e = t.episodes.c
        named = select(e.id, e.scenario, e.learn_model).where(e.group_id == group_id)
        first = named.order_by(e.id).limit(_GROUP_MAX).subquery().c
        query = select(first.id).order_by(first.id)
        query = query.where(first.scenario == scenario, first.learn_model == learn_model)
        async with self._read() as db:
            return list((await db.execute(query)).scalars())

    async def counted(
        self, scenario: str, learn_model: str, *, before_ms: int, limit: int
    ) -> list[Counted]:
        """The newest episodes made before then, newest first."""
        e = t.episodes.c
        columns = (e.created_at_ms, e.outcome_type, e.num_tool_calls, e.answer_chars)
        query = select(*columns).where(e.id < f"{before_ms:0{_MS_DIGITS}d}")
        query = query.where(e.scenario == scenario, e.learn_model == learn_model)
        async with self._read() as db:
            rows = (await db.execute(query.order_by(e.id.desc()).limit(limit))).all()
        return [
            Counted(
                row.created_at_ms,
                None if row.outcome_type == "unknown" else row.outcome_type == "success",
                row.num_tool_calls,
                row.answer_chars,
            )
            for row in rows
        ]

    async def outdated(self, scenario: str, learn_model: str, *, limit: int) -> tuple[int, int]:
        """How many of the newest episodes stand otherwise than the present composition would make them."""
        e = t.episodes.c
        query = select(e.id, e.outcome).where(e.scenario == scenario, e.learn_model == learn_model)
        async with self._read() as db:
            rows = (await db.execute(query.order_by(e.id.desc()).limit(limit))).all()
            verdicts = await changes.verdicts_of(db, [row.id for row in rows])
            composition = composition_of(db)
        num = 0
        for row in rows:
            told = composition.stands([verdict.told for verdict in verdicts.get(row.id, ())])
            # what an attempt said of itself is kept as a verdict only where it counted
            if told is not None and worth(told.outcome) != worth(_decode_outcome(row.outcome)):
                num += 1
        return num, len(verdicts)

    async def opinions(self, scenario: str, learn_model: str, *, limit: int) -> list[Opinion]:
        """What judges and others have said of the same episodes, among the newest verdicts."""
        said, e = t.outcomes.c, t.episodes.c
        newest = select(said.episode_id).order_by(said.id.desc()).limit(limit).subquery()
        query = select(said.episode_id, said.outcome, said.source, e.created_at_ms, e.adapter_id)
        query = query.join(t.episodes, said.episode_id == e.id)
        query = query.where(e.scenario == scenario, e.learn_model == learn_model)
        query = query.where(said.episode_id.in_(select(newest.c.episode_id)))
        query = query.order_by(said.id.desc()).limit(_WORDS_EACH * limit)
        judges: dict[tuple[str, str], Outcome] = {}
        others: dict[str, Outcome] = {}
        made: dict[str, tuple[int, str | None]] = {}
        async with self._read() as db:
            rows = (await db.execute(query)).all()
        for row in rows:  # the newest word of each is the first one
            made[row.episode_id] = row.created_at_ms, row.adapter_id
            if is_judged(row.source):
                judges.setdefault((row.episode_id, row.source), _decode_outcome(row.outcome))
            else:
                others.setdefault(row.episode_id, _decode_outcome(row.outcome))
        return [
            Opinion(at_ms, source, is_success(says), is_success(others_say), adapter_id)
            for (episode_id, source), says in reversed(judges.items())
            for at_ms, adapter_id in (made[episode_id],)
            # unknown takes the word before it back
            if is_known(says) and is_known(others_say := others.get(episode_id, Unknown()))
        ]
