"""`ports.Lessons` on SQL: what a training reads, and which adapters have learned from an episode."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import select

from honed.domain.trained_model import TrainedModel
from honed.domain.verdict import Reach
from honed.ports import Lesson, Material, ReadEpisode
from honed.stores import changes, reads
from honed.stores import tables as t
from honed.stores.transactions import Transactions

_decode_model = msgspec.json.Decoder(TrainedModel).decode


class SqlLessons:
    """Reads for trainings and about them."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read

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
            verdicts = await changes.newest_verdicts(db, episode_ids)
        found = {
            episode.id: ReadEpisode(
                episode,
                Reach(
                    verdicts.get(episode.id, 0),
                    max((record.record_id or 0 for record in episode.records), default=0),
                ),
            )
            for episode in episodes
        }
        return [found[id] for id in episode_ids if id in found]

    async def of(self, episode_id: str) -> list[Lesson]:
        """The adapters that learned from an episode, in the order of their training."""
        async with self._read() as db:
            query = select(t.models.c.body).order_by(t.models.c.created_at_ms, t.models.c.id)
            models = [_decode_model(body) for body in (await db.execute(query)).scalars()]
            models = [model for model in models if episode_id in model.episode_ids]
            verdicts = (await changes.verdicts_of(db, [episode_id])).get(episode_id, [])
        return [_lesson(model, episode_id, verdicts) for model in models]


def _lesson(model: TrainedModel, episode_id: str, verdicts: Sequence[changes.Numbered]) -> Lesson:
    told = None
    if model.seen is not None:
        told = changes.stood_at(verdicts, model.seen.reach(episode_id).verdict)
        told = told or changes.NOTHING
    return Lesson(
        model_id=model.id,
        run_id=model.run_id,
        trained_at_ms=model.created_at_ms,
        outcome=told.outcome if told else None,
        source=told.source if told else None,
        version=told.version if told else None,
    )
