"""`ports.Reviews` on SQL."""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Row, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.errors import NotFoundError
from honed.ports import Remark, Review
from honed.stores import tables as t
from honed.stores.dialects import among, upsert
from honed.stores.transactions import Transactions

_decode: Final = msgspec.json.Decoder(Review).decode


class SqlReviews:
    """What people said about episodes, and the runs that wait for them."""

    def __init__(self, transactions: Transactions) -> None:
        self._read = transactions.read
        self._write = transactions.write

    async def remark(self, remarks: Sequence[Remark]) -> list[bool]:
        """Add remarks; False for those that change nothing. Raises NotFoundError."""
        async with self._write() as db:
            e = t.episodes.c
            ids = {remark.episode_id for remark in remarks}
            known = set((await db.execute(select(e.id).where(among(e.id, ids)))).scalars())
            if missing := sorted(ids - known):
                raise NotFoundError(
                    f"no episode has the id {missing[0]}; nothing was written down",
                    advice="`honed episodes` lists them",
                )
            heard = _Heard(await _remarks(db, ids))
            added = [heard.adds(remark) for remark in remarks]
            new = [remark for remark, is_new in zip(remarks, added, strict=True) if is_new]
            if new:
                await db.execute(insert(t.remarks), [msgspec.structs.asdict(each) for each in new])
        return added

    async def remarks(self, episode_ids: Collection[str]) -> list[Remark]:
        """All remarks on these episodes, oldest first."""
        async with self._read() as db:
            return await _remarks(db, episode_ids)

    async def dropped(self, episode_ids: Collection[str]) -> frozenset[str]:
        """Those of these episodes that are left out of every training set."""
        return frozenset(
            id for id, kind in _standing(await self.remarks(episode_ids)).items() if kind == "drop"
        )

    async def waiting(self, scenario: str, learn_model: str) -> Review | None:
        """The run that waits, approved or not."""
        r = t.reviews.c
        query = select(r.body).where(r.scenario == scenario, r.learn_model == learn_model)
        async with self._read() as db:
            body = await db.scalar(query)
        return None if body is None else _decode(body)

    async def wait(self, review: Review) -> None:
        """Have a run wait, or write down how it stands now."""
        body = msgspec.json.encode(review).decode()
        row = {"scenario": review.scenario, "learn_model": review.learn_model, "body": body}
        async with self._write() as db:
            query = upsert(db, t.reviews).on_conflict_do_update(
                index_elements=["scenario", "learn_model"], set_={"body": body}
            )
            await db.execute(query, [row])

    async def end(self, review_id: str) -> None:
        """Nothing waits under this id any more."""
        async with self._write() as db:
            await end_review(db, review_id)


async def end_review(db: AsyncConnection, review_id: str) -> None:
    """Nothing waits under this id any more; inside the caller's transaction."""
    r = t.reviews.c
    for row in (await db.execute(select(t.reviews))).all():
        if _decode(row.body).id == review_id:
            mine = (r.scenario == row.scenario) & (r.learn_model == row.learn_model)
            await db.execute(delete(t.reviews).where(mine))


async def _remarks(db: AsyncConnection, episode_ids: Collection[str]) -> list[Remark]:
    r = t.remarks.c
    query = select(t.remarks).where(among(r.episode_id, episode_ids)).order_by(r.id)
    return [_remark(row) for row in (await db.execute(query)).all()]


def _remark(row: Row[tuple[object, ...]]) -> Remark:
    return Remark(**{name: getattr(row, name) for name in Remark.__struct_fields__})


class _Heard:
    """What was said of some episodes so far."""

    def __init__(self, said: Iterable[Remark]) -> None:
        self._kinds: dict[str, str] = {}
        self._notes: set[tuple[str, str | None, str | None, str]] = set()
        for remark in said:
            self.adds(remark)

    def adds(self, remark: Remark) -> bool:
        """Hear a remark; whether it says what was not said, by whomever a drop or keep, by the same person a note."""
        if remark.kind != "note":
            stood = self._kinds.get(remark.episode_id, "keep")
            self._kinds[remark.episode_id] = remark.kind
            return stood != remark.kind
        note = (remark.episode_id, remark.note, remark.label, remark.said_by)
        is_new = note not in self._notes
        self._notes.add(note)
        return is_new


def _standing(remarks: Sequence[Remark]) -> dict[str, str]:
    """Whether an episode is dropped or kept, of those of which it was said."""
    return {remark.episode_id: remark.kind for remark in remarks if remark.kind != "note"}
