"""`ports.Lessons` on SQL: what a training reads, and which adapters have learned from an episode."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import anyio.to_thread
import msgspec
from sqlalchemy import select

from honed.domain.composition import Composition, is_judged
from honed.domain.held_text import HeldText
from honed.domain.trained_model import TrainedModel
from honed.domain.verdict import Reach
from honed.ports import Lesson, Material, ReadEpisode
from honed.stores import changes, held_texts, likeness, reads
from honed.stores import tables as t
from honed.stores.dialects import composition_of, upsert
from honed.stores.transactions import Transactions

T = TypeVar("T")

_PAGE: Final = 500
"""Names in one statement, and in one transaction that events wait for."""
_TEXTS: Final = 50
"""Texts that one transaction remembers; each has 33 rows."""
_COMPARED: Final = 500
"""Texts that are compared together: what is remembered is read once for all of them."""
_REMEMBERED: Final = 4_000
"""Remembered texts in memory at a time, 256 bytes each."""

_decode_model = msgspec.json.Decoder(TrainedModel).decode


class SqlLessons:
    """What trainings read, and the sides that they settle."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read
        self._write = transactions.write

    async def material(self, scenario: str, learn_model: str, *, limit: int) -> Material:
        """New episodes, then changed ones, then the others; see `ports.Lessons`."""
        async with self._read() as db:
            e, s = t.episodes.c, t.learning_states.c
            query = select(s.episode_count, s.last_train_count)
            query = query.where(s.scenario == scenario, s.learn_model == learn_model)
            state = (await db.execute(query)).first()
            newest = select(e.id, e.number).order_by(e.id.desc()).limit(limit)
            newest = newest.where(e.scenario == scenario, e.learn_model == learn_model)
            rows = (await db.execute(newest)).all()
            changed = await changes.changed(db, scenario, learn_model, limit=limit)
            reach = await changes.reach(db)
        trained = state.last_train_count if state else 0
        new = [row.id for row in rows if row.number > trained]
        others = [row.id for row in rows if row.number <= trained]
        chosen = list(dict.fromkeys((*new, *changed, *others)))[:limit]
        return Material(
            episode_ids=tuple(chosen),
            num_new=len(new),
            num_changed=len(frozenset(chosen).intersection(changed)),
            episode_count=state.episode_count if state else 0,
            reach=reach,
        )

    async def read(self, episode_ids: Sequence[str]) -> list[ReadEpisode]:
        """Whole episodes in the order of their ids given, each with its newest verdict and record."""
        async with self._read() as db:
            query = select(t.episodes).where(t.episodes.c.id.in_(episode_ids))
            episodes = await reads.whole(db, (await db.execute(query)).all())
            verdicts = await changes.verdicts_of(db, episode_ids)
            composition = composition_of(db)
        found = {
            episode.id: ReadEpisode(
                episode,
                Reach(
                    max((said.id for said in verdicts.get(episode.id, ())), default=0),
                    max((record.record_id or 0 for record in episode.records), default=0),
                ),
                _is_judged(composition, verdicts.get(episode.id, ())),
            )
            for episode in episodes
        }
        return [found[id] for id in episode_ids if id in found]

    async def sides(self, names: Sequence[bytes]) -> dict[bytes, bool]:
        """By name whether it is held out, of those of these names whose side is settled."""
        found: dict[bytes, bool] = {}
        async with self._read() as db:
            for page in _pages(names):
                query = select(t.sides).where(t.sides.c.digest.in_(page))
                found |= {bytes(row.digest): bool(row.held_out) for row in await db.execute(query)}
        return found

    async def settle_sides(self, sides: Mapping[bytes, bool]) -> frozenset[bytes]:
        """Settle the side of names for ever; those that stand on the other side already."""
        for page in _pages(sorted(sides)):
            rows = [{"digest": name, "held_out": int(sides[name])} for name in page]
            async with self._write() as db:
                await db.execute(upsert(db, t.sides).on_conflict_do_nothing(), rows)
        standing = await self.sides(sorted(sides))
        return frozenset(name for name in sides if standing[name] != sides[name])

    async def hold_out(self, texts: Sequence[HeldText]) -> None:
        """Remember for ever what held-out texts say; see `ports.Lessons`."""
        known: set[bytes] = set()
        async with self._read() as db:
            for page in _pages(texts):
                known |= await held_texts.whole(db, [held.digest for held in page])
        for part in _pages([held for held in texts if held.digest not in known], _TEXTS):
            async with self._write() as db:
                await held_texts.remember(db, part)

    async def near_held_out(self, texts: Sequence[HeldText], *, least: int) -> list[bool]:
        """Whether each of the texts says what a held-out one says; see `ports.Lessons`."""
        return [said for page in _pages(texts, _COMPARED) for said in await self._near(page, least)]

    async def _near(self, texts: Sequence[HeldText], least: int) -> list[bool]:
        async with self._read() as db:
            found = await held_texts.equal(db, texts)
            asked = [held for held in texts if held.parts and held.digest not in found]
            ids = await held_texts.sharing(db, asked)
        for page in _pages(ids, _REMEMBERED):
            async with self._read() as db:
                known = await held_texts.parts(db, page)
            # outside of the transaction and of the event loop: of one template all are compared with all
            compare = partial(likeness.near, [held.parts for held in asked], known, least=least)
            told = await anyio.to_thread.run_sync(compare)
            found |= {held.digest for held, is_near in zip(asked, told, strict=True) if is_near}
            asked = [held for held in asked if held.digest not in found]
            if not asked:
                break
        return [held.digest in found for held in texts]

    async def of(self, episode_id: str) -> list[Lesson]:
        """The adapters that learned from an episode, in the order of their training."""
        async with self._read() as db:
            query = select(t.models.c.body).order_by(t.models.c.created_at_ms, t.models.c.id)
            models = [_decode_model(body) for body in (await db.execute(query)).scalars()]
            models = [model for model in models if episode_id in model.episode_ids]
            verdicts = (await changes.verdicts_of(db, [episode_id])).get(episode_id, [])
            composition = composition_of(db)
        return [_lesson(composition, model, episode_id, verdicts) for model in models]


def _is_judged(composition: Composition, verdicts: Sequence[changes.Numbered]) -> bool:
    counted = composition.counted([verdict.told for verdict in verdicts])
    return bool(counted) and all(is_judged(told.source) for told in counted)


def _lesson(
    composition: Composition,
    model: TrainedModel,
    episode_id: str,
    verdicts: Sequence[changes.Numbered],
) -> Lesson:
    told = None
    if model.seen is not None:
        told = changes.stood_at(composition, verdicts, model.seen.reach(episode_id).verdict)
        told = told or changes.NOTHING
    return Lesson(
        model_id=model.id,
        run_id=model.run_id,
        trained_at_ms=model.created_at_ms,
        outcome=told.outcome if told else None,
        source=told.source if told else None,
        version=told.version if told else None,
    )


def _pages(values: Sequence[T], size: int = _PAGE) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))
