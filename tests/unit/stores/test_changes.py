"""Any order of verdicts and trainings leaves exactly the episodes changed that stand otherwise than they were seen."""

import random

import pytest

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.run import Run
from honed.domain.verdict import Seen, worth
from honed.ports import EpisodeFilter
from honed.stores import SqlStore, open_store
from tests.feed_parts import call, close_all, incoming

pytestmark = pytest.mark.anyio
OUTCOMES: tuple[Outcome, ...] = (
    Success(1.0),
    Success(0.5),
    Failure("no"),
    Failure("because"),
    Timeout(0.5),
    Unknown(),
)


async def changed(store: SqlStore) -> set[str]:
    material = await store.lessons.material("airline", "chat", limit=1_000)
    state = await store.start_scenario("airline", "chat", now_ms=1)
    assert state.changed_count == material.num_changed
    old = material.episode_ids[material.num_new :][: material.num_changed]
    return set(old)


@pytest.mark.parametrize("seed", range(12))
async def test_changed_is_what_stands_otherwise_than_it_was_seen(seed: int) -> None:
    """Against a model that remembers what each training saw, verdicts in the middle of trainings included."""
    chance = random.Random(seed)
    now: dict[str, Outcome] = {}
    seen: dict[str, tuple[str, float]] = {}
    async with open_store("sqlite://") as store:
        await store.start_scenario("airline", "chat", now_ms=1)

        async def make() -> None:
            await store.append([incoming(call(task_id=f"t{len(now)}"))])
            [episode] = await close_all(store)
            now[episode.id] = episode.outcome

        async def judge() -> None:
            if now:
                one = chance.choice(sorted(now))
                now[one] = chance.choice(OUTCOMES)
                await store.set_outcome(one, now[one])

        async def train(number: int) -> None:
            material = await store.lessons.material("airline", "chat", limit=1_000)
            saw = {id: worth(outcome) for id, outcome in now.items()}
            seen_by_run = Seen(newest=material.reach)
            for _ in range(chance.randrange(4)):  # what happens while it reads
                await chance.choice((make, judge))()
            late = [id for id in sorted(saw) if chance.random() < 0.3]
            read = await store.lessons.read(late)
            later = {each.episode.id: each.reach for each in read}
            saw |= {id: worth(now[id]) for id in later}
            run = Run(
                id=f"run-{number}",
                scenario="airline",
                learn_model="chat",
                state="done",
                started_at_ms=number,
                ended_at_ms=number,
                reason="test",
            )
            await store.add_run(run)
            await store.end_run(
                run,
                trained_count=material.episode_count,
                seen=Seen(newest=seen_by_run.newest, later=later),
            )
            seen.update(saw)

        for number in range(40):
            deed = chance.random()
            await (train(number) if deed < 0.15 else make() if deed < 0.4 else judge())
            expected = {id for id in seen if worth(now[id]) != seen[id]}
            assert await changed(store) == expected
        rows = await store.list_episodes(EpisodeFilter())
        assert {row.id: row.outcome for row in rows} == now
