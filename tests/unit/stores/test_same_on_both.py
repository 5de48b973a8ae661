"""Whatever comes in whatever order, SQLite and PostgreSQL end up with the same store."""

import random
from typing import Any

import msgspec
import pytest

from honed.ports import EpisodeFilter, IncomingEvent, RecordFilter, Whose
from honed.stores import SqlStore, open_store
from tests.feed_parts import action, call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio
TASKS = [f"t{n}" for n in range(4)]
RECEIPTS = [f"r{n}" for n in range(5)]


class Swarm:
    """Makes events of every kind that the store treats in its own way."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._made: list[dict[str, Any]] = []
        self._number = 0

    def batch(self, now_ms: int) -> list[IncomingEvent]:
        """New events, repeats and conflicts."""
        return [
            incoming(self._event(), received_ms=now_ms + self._random.randrange(50))
            for _ in range(self._random.randint(1, 12))
        ]

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def pick(self, names: list[str]) -> str:
        return self._random.choice(names)

    def _event(self) -> dict[str, Any]:
        if self._made and self.chance(0.15):
            again = self.pick_made()
            return again if self.chance(0.5) else again | {"tags": {"other": "content"}}
        event = self._new()
        self._number += 1
        event["event_id"] = f"e{self._number}"
        if self.chance(0.1):
            del event["event_id"]
        else:
            self._made.append(event)
        return event

    def pick_made(self) -> dict[str, Any]:
        return self._random.choice(self._made)

    def _new(self) -> dict[str, Any]:
        task = {"task_id": self.pick(TASKS), "group_id": f"g{self._random.randrange(2)}"}
        match self._random.randrange(7):
            case 0:
                return call(**task, receipt_id=self.pick(RECEIPTS))
            case 1:
                return success(self._random.randrange(3) / 2, **task, source="judge")
            case 2:
                return failure("late", receipt_id=self.pick(RECEIPTS))
            case 3:
                return failure("all", group_id=task["group_id"])
            case 4:
                return action(**task, name="done")
            case _:
                return action(**task, name=self.pick(["look", "jump", "wait"]))


async def content(store: SqlStore) -> dict[str, Any]:
    """All that can be asked of a store, without the names that each makes for itself."""
    episodes = [episode async for episode in store.query_episodes(EpisodeFilter())]
    provenance = await store.provenance([episode.id for episode in episodes])
    groups = await store.open_groups(settled_before_ms=10**9, idle_before_ms=10**9, now_ms=10**9)
    return {
        "stats": await store.stats(),
        "records": [msgspec.to_builtins(r) async for r in store.records.query(RecordFilter())],
        "episodes": sorted(
            repr(
                (
                    episode.task_id,
                    episode.outcome,
                    episode.records,
                    provenance[episode.id].events,
                    [(v.outcome, v.source, v.event_id) for v in provenance[episode.id].verdicts],
                )
            )
            for episode in episodes
        ),
        "actions": await store.distinct_actions("airline"),
        "state": await store.start_scenario("airline", "chat", now_ms=1),
        "open": [(g.key, g.closing, g.last_ms, g.num_records) for g in groups],
        "due": await store.next_due_ms(settle_ms=5, idle_ms=500),
    }


LONG = [pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 100)]


@pytest.mark.parametrize("seed", [*range(5), *LONG])
async def test_the_same_events_make_the_same_store(postgres_url: str, seed: int) -> None:
    """Repeats, conflicts, late records, verdicts by receipt before and after their call, forgetting."""
    swarm = Swarm(seed)
    async with open_store("sqlite://") as one, open_store(postgres_url) as other:
        for step in range(25):
            batch = swarm.batch(now_ms=step * 100)
            assert await one.append(batch) == await other.append(batch)
            if swarm.chance(0.25):
                made = [await close_all(store, now_ms=step * 100 + 60) for store in (one, other)]
                assert len(made[0]) == len(made[1])
            if swarm.chance(0.05):
                whose = Whose("task", swarm.pick(TASKS))
                for store in (one, other):
                    await store.keeping.remove(await store.keeping.find(whose), forever=True)
            if step % 5 == 4:
                assert await content(one) == await content(other)
