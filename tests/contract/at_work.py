"""A process that does all that a store is for, step after step, until it is killed; run with `python -m`."""

import random
import sys
from collections.abc import Sequence
from typing import Any, Final

import anyio
import msgspec

from honed.domain.composition import Composition, Weight
from honed.domain.run import Run
from honed.domain.verdict import Reach
from honed.ports import EpisodeFilter, Material, Remark, RemarkKind, Review
from honed.stores import SqlStore, open_store
from tests.feed_parts import call, close_all, failure, incoming, success

MINE: Final = ("airline", "chat")
COMPOSITION: Final = Composition(
    rule="weighted", weights=(Weight("user:*", 2), Weight("judge:*", 0.5))
)
_TASKS: Final = 12
_LATER: Final = 10**13 - 2


async def work(url: str, spell: int, since: int) -> None:
    """Take the steps of this spell from `since` on; each is told on stdout once it is committed."""
    async with open_store(url, composition=COMPOSITION) as store:
        await store.start_scenario(*MINE, now_ms=1)
        number = since
        while True:
            chance = random.Random(f"{spell}-{number}")
            event_ids = await _step(store, chance, f"{spell}-{number}")
            sys.stdout.write(f"{' '.join([str(number), *event_ids])}\n")
            sys.stdout.flush()
            number += 1


async def _step(store: SqlStore, chance: random.Random, name: str) -> list[str]:
    match chance.choices(("attempts", "verdicts", "judge", "remark", "train"), (3, 4, 2, 1, 2))[0]:
        case "attempts":
            told = await _send(store, [_attempt(chance, f"{name}-{n}") for n in range(8)])
            await close_all(store)
            return told
        case "verdicts":
            num = chance.choice([1, 3, 60])
            return await _send(store, [_verdict(chance, f"{name}-{n}") for n in range(num)])
        case "judge":
            return await _judge(store)
        case "remark":
            rows = await store.list_episodes(EpisodeFilter(limit=20))
            kinds: tuple[RemarkKind, ...] = ("drop", "keep")
            remarks = [
                Remark(episode_id=row.id, kind=chance.choice(kinds), said_by="ann", at_ms=1)
                for row in rows
            ]
            await store.reviews.remark(remarks)
        case "train":
            await _train(store, chance, name)
    return []


async def _send(store: SqlStore, events: Sequence[dict[str, Any]]) -> list[str]:
    await store.append([incoming(event) for event in events])
    return [event["event_id"] for event in events]


def _attempt(chance: random.Random, event_id: str) -> dict[str, Any]:
    task = f"t{chance.randrange(_TASKS)}-{event_id.partition('-')[0]}"
    return call(event_id=event_id, task_id=task, group_id=f"g{chance.randrange(3)}")


def _verdict(chance: random.Random, event_id: str) -> dict[str, Any]:
    source = chance.choice(["user:ann", "user:bob", "tests"])
    fields: dict[str, Any] = {"event_id": event_id, "source": source}
    if chance.random() < 0.5:
        fields["version"] = f"v{chance.randrange(20)}"
    if chance.random() < 0.1:
        fields["demonstration"] = f"Better {chance.randrange(3)}."
    if chance.random() < 0.1:
        fields["group_id"] = f"g{chance.randrange(3)}"
    else:
        fields["task_id"] = f"t{chance.randrange(_TASKS)}-{event_id.partition('-')[0]}"
    return success(0.5, **fields) if chance.random() < 0.5 else failure(**fields)


async def _judge(store: SqlStore) -> list[str]:
    """Ask about the next episodes, as a verifier does: the verdict first, then the place."""
    position = await store.rewards.position(*MINE, "judge:m")
    page = await store.rewards.episodes_after(*MINE, after=position, until_ms=_LATER, limit=5)
    said = [
        success(event_id=f"judge-{each.id}", episode_id=each.id, source="judge:m") for each in page
    ]
    told = await _send(store, said)
    if page:
        await store.rewards.advance(*MINE, "judge:m", episode_id=page[-1].id)
    return told


async def _train(store: SqlStore, chance: random.Random, name: str) -> None:
    """A run that may wait for a review; it ends, or is left in progress."""
    material = await store.lessons.material(*MINE, limit=50)
    run = Run(
        id=f"run-{name}",
        scenario="airline",
        learn_model="chat",
        state="running",
        reason="always()",
        started_at_ms=1,
    )
    if run.id in {known.id for known in await store.list_runs("airline", limit=1_000)}:
        return
    if chance.random() < 0.5:
        what = Material((), num_new=0, num_changed=0, episode_count=0, reach=Reach())
        told = Review(
            id=run.id, scenario="airline", learn_model="chat", reason="x", at_ms=1, material=what
        )
        await store.reviews.wait(told)
    await store.add_run(run)
    state = chance.choice(["done", "failed"])
    ended = msgspec.structs.replace(run, state=state, ended_at_ms=2)
    trained = material.episode_count if state == "done" else None
    await store.end_run(ended, trained_count=trained)
    await store.reviews.end(run.id)


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
