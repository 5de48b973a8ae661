"""Thousands of verdicts or remarks at once: the same outcome as one by one, and no more work than their number."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import func, select

from honed.domain.composition import PLAIN, Composition, Weight
from honed.domain.outcome import Failure, Success
from honed.domain.run import Run
from honed.ports import Aged, EpisodeFilter, Remark
from honed.stores import SqlStore, late, open_store
from honed.stores import tables as t
from honed.triggers import Needs
from tests.feed_parts import call, close_all, failure, incoming, success
from tests.trigger_load import listening

pytestmark = pytest.mark.anyio


async def statements(store: SqlStore, num: int) -> int:
    """How many statements it takes to hear so many versions of a judge on one attempt."""
    task = f"of-{num}"
    await store.append([incoming(call(task_id=task))])
    [made] = await close_all(store)
    said = [success(task_id=task, source="judge:m", version=f"v{n}") for n in range(num)]
    with listening(store) as heard:
        await store.append(
            [incoming(event) for event in [*said, failure(task_id=task, source="ann")]]
        )
    found = await store.get_episode(made.id)
    assert found.outcome == Failure("no")
    assert len(found.records) == num + 2
    return len(heard)


async def test_many_verdicts_on_one_attempt_are_weighed_once(store: SqlStore) -> None:
    """A judge that is asked again and again costs what it says, not what it has ever said each time."""
    few, many = await statements(store, 2), await statements(store, 150)
    assert many <= few + 8  # the writer may commit one crowd in several parts


async def test_many_remarks_are_written_at_once(store: SqlStore) -> None:
    """However many of them come in one request."""
    await store.append([incoming(call(task_id="t"))])
    [made] = await close_all(store)
    counts = []
    for num in (1, 2_000):
        notes = [
            Remark(episode_id=made.id, kind="note", said_by="ann", at_ms=1, note=f"{num} {n}")
            for n in range(num)
        ]
        with listening(store) as heard:
            assert await store.reviews.remark([*notes, notes[0]]) == [True] * num + [False]
        counts.append(len(heard))
    assert counts[0] == counts[1]
    assert len(await store.reviews.remarks([made.id])) == 2_001


async def test_a_verdict_on_a_large_group_reaches_every_attempt(lasting_url: str) -> None:
    """Some attempts at a time; what a killed process left is finished when the store is opened again."""
    async with open_store(lasting_url) as store:
        calls = [call(task_id=f"t{n}", group_id="g") for n in range(90)]
        await store.append([incoming(event) for event in calls])
        made = await close_all(store)
        await store._writer.append([incoming(success(0.5, group_id="g", source="desk"))])
        for num in (0, 50):  # it is spread first, and nobody has heard it then
            async with store._write() as db:
                assert await late.settle(db)
                query = select(func.count()).select_from(t.episodes)
                assert await db.scalar(query.where(t.episodes.c.outcome_type == "success")) == num
    async with open_store(lasting_url) as store:
        rows = await store.list_episodes(EpisodeFilter(limit=500))
        assert {row.id for row in rows} == {episode.id for episode in made}
        assert {row.outcome for row in rows} == {Success(0.5)}
        assert {row.num_records for row in rows} == {1}  # the record of the verdict is nobody's
        async with store._read() as db:
            assert not (await db.execute(select(t.late_outcomes))).all()
            assert await db.scalar(select(func.count()).select_from(t.outcomes)) == 90


async def test_an_attempt_that_waits_for_its_group_s_verdict_is_not_cleared_away(
    store: SqlStore,
) -> None:
    """Between the moment when the verdict was spread and the one when it reaches the attempt."""
    await store.append([incoming(call(task_id="t", group_id="g"))])
    await close_all(store)
    aged = Aged(unlabelled_before_ms=1 << 60)
    assert (await store.keeping.aged(aged, limit=9)).episode_ids
    await store._writer.append([incoming(success(group_id="g", source="desk"))])
    async with store._write() as db:
        assert await late.settle(db)
    assert not (await store.keeping.aged(aged, limit=9)).episode_ids


COMPOSITIONS = {
    "plain": PLAIN,
    "first": Composition(rule="first", weights=(Weight("user:*"), Weight("*"))),
    "weighted": Composition(rule="weighted", weights=(Weight("judge:*", 0.5),)),
}


@pytest.mark.parametrize("rule", sorted(COMPOSITIONS))
@pytest.mark.parametrize("seed", range(2))
async def test_together_or_one_by_one_the_store_is_the_same(seed: int, rule: str) -> None:
    """Verdicts with versions and answers, on one attempt, on a call of it and on all of its group."""
    chance = random.Random(seed)
    said = [_said(chance) for _ in range(60)]
    together = await _left(COMPOSITIONS[rule], [said])
    assert together == await _left(COMPOSITIONS[rule], [[each] for each in said])


def _said(chance: random.Random) -> dict[str, Any]:
    source = chance.choice([None, "user:ann", "judge:m", "tests"])
    fields: dict[str, Any] = {"source": source} if source else {}
    if source and chance.random() < 0.6:
        fields["version"] = f"v{chance.randrange(12)}"
    if chance.random() < 0.15:
        fields["demonstration"] = chance.choice(["Look in billing.", "Ask again."])
    task = chance.choice("abc")
    match chance.randrange(4):
        case 0:
            fields["group_id"] = chance.choice("gh")
        case 1:
            fields["receipt_id"] = f"call-{task}"
        case _:
            fields["task_id"] = task
    score = chance.choice([1.0, 0.5])
    return success(score, **fields) if chance.random() < 0.5 else failure(**fields)


async def _left(composition: Composition, batches: Sequence[Sequence[dict[str, Any]]]) -> list[Any]:
    """All that the store knows in the end of three attempts that a training has seen."""
    async with open_store("sqlite://", composition=composition) as store:
        for task, group in zip("abc", "ggh", strict=True):
            event = call(task_id=task, group_id=group, receipt_id=f"call-{task}")
            await store.append([incoming(event)])
        await close_all(store)
        await store.start_scenario("airline", "chat", now_ms=1)
        run = Run(
            id="r",
            scenario="airline",
            learn_model="chat",
            state="done",
            reason="x",
            started_at_ms=1,
            ended_at_ms=2,
        )
        await store.add_run(run)
        await store.end_run(run, trained_count=2)
        for batch in batches:
            await store.append([incoming(event) for event in batch])
        e, o, link, c = t.episodes.c, t.outcomes.c, t.episode_records, t.changed_episodes.c
        task_of = select(e.task_id).where(e.id == c.episode_id).scalar_subquery()
        queries = (
            select(e.task_id, e.outcome, e.score, e.num_records).order_by(e.task_id),
            select(e.task_id, o.outcome, o.source, o.record_id)
            .join(t.episodes, e.id == o.episode_id)
            .order_by(e.task_id, o.id),
            select(e.task_id, link.c.position, link.c.record_id)
            .join(t.episodes, e.id == link.c.episode_id)
            .order_by(e.task_id, link.c.position),
            select(task_of, c.outcome_type, c.score, c.demonstration, c.counted).order_by(task_of),
        )
        async with store._read() as db:
            rows = [[tuple(row) for row in await db.execute(query)] for query in queries]
        facts = await store.trigger_context("airline", "chat", now_ms=9, needs=Needs(outcomes=9))
        assert len(rows[1]) > 60
        return [*rows, facts]
