"""What a training has seen of an episode's verdicts, and what has changed since; on every store."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.run import Run
from honed.domain.trained_model import TrainedModel
from honed.domain.verdict import Reach, Seen
from honed.ports import Whose
from honed.stores import SqlStore
from honed.triggers import Needs
from tests.contract.test_store import episode
from tests.feed_parts import call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio


async def attempt(store: SqlStore, task: str, *verdict: dict[str, Any]) -> str:
    """An episode of one call; its id."""
    await store.append([incoming(event) for event in (call(task_id=task), *verdict)])
    [made] = await close_all(store)
    return made.id


async def waiting(store: SqlStore) -> tuple[int, int]:
    """Episodes that wait for a training, and those of them that are changed."""
    context = await store.trigger_context("airline", "chat", now_ms=1, needs=Needs(outcomes=50))
    return context.count, context.changed_count


async def recent(store: SqlStore) -> list[str]:
    context = await store.trigger_context("airline", "chat", now_ms=1, needs=Needs(outcomes=50))
    return [type(outcome).__name__.lower() for outcome in context.recent]


async def look(store: SqlStore) -> Seen:
    """What a training that begins now sees."""
    return Seen(newest=(await store.lessons.material("airline", "chat", limit=9)).reach)


async def train(
    store: SqlStore, number: int, *, seen: Seen | None = None, on: Sequence[str] = ()
) -> None:
    """A training that has read all there is, or what it has `seen`; its adapter learned from `on`."""
    state = await store.start_scenario("airline", "chat", now_ms=1)
    run = Run(
        id=f"run-{number}",
        scenario="airline",
        learn_model="chat",
        state="running",
        started_at_ms=number,
        reason="test",
    )
    await store.add_run(run)
    model = TrainedModel(
        id=f"airline@{number}",
        scenario="airline",
        run_id=run.id,
        base_model="base",
        learn_model="chat",
        method="sft",
        adapter_path="/nowhere",
        gguf_path=None,
        digest="d",
        data_digest="d",
        episode_ids=tuple(on),
        sample_count=len(on),
        created_at_ms=number,
        seen=seen,
    )
    await store.add_model(model)
    done = msgspec.structs.replace(run, state="done", ended_at_ms=number)
    await store.end_run(done, trained_count=state.episode_count, seen=seen)


@pytest.mark.parametrize("said", [Failure("reopened"), Success(0.5), Unknown(), Timeout(1.0)])
async def test_another_outcome_makes_an_old_episode_wait_again(
    store: SqlStore, said: Outcome
) -> None:
    """Its type or its score: the training went by another."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one = await attempt(store, "t1", success(task_id="t1"))
    assert await waiting(store) == (1, 0)
    await train(store, 1)
    assert await waiting(store) == (0, 0)
    await store.set_outcome(one, said, source="ann")
    assert await waiting(store) == (1, 1)
    await train(store, 2)
    assert await waiting(store) == (0, 0)


async def test_the_same_verdict_again_is_nothing_new(store: SqlStore) -> None:
    """Not from another source, nor with other words; and one that is taken back leaves nothing to learn."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await attempt(store, "t1", failure("no", task_id="t1"))
    await train(store, 1)
    await store.append([incoming(failure("because", task_id="t1", source="ann"))])
    assert await waiting(store) == (0, 0)
    await store.append([incoming(success(task_id="t1", source="ben"))])
    assert await waiting(store) == (1, 1)
    await store.append([incoming(success(task_id="t1", source="cid"))])
    assert await waiting(store) == (1, 1)
    await store.append([incoming(failure("after all", task_id="t1", source="ben"))])
    assert await waiting(store) == (0, 0)


async def test_a_verdict_that_does_not_count_changes_nothing(store: SqlStore) -> None:
    """An old version of a judge that has said something newer is only kept."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await attempt(store, "t1", success(task_id="t1", source="judge", version="v2"))
    await train(store, 1)
    await store.append([incoming(failure(task_id="t1", source="judge", version="v1"))])
    assert await waiting(store) == (0, 0)


async def test_a_better_answer_makes_an_old_episode_wait_again(store: SqlStore) -> None:
    """Once: the same answer again changes nothing, another one does."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await attempt(store, "t1", failure(task_id="t1"))
    await train(store, 1)

    async def answer(text: str) -> tuple[int, int]:
        told = success(task_id="t1", demonstration=text)
        del told["outcome"]
        await store.append([incoming(told)])
        return await waiting(store)

    assert await answer("go left") == (1, 1)
    await train(store, 2)
    assert await waiting(store) == (0, 0)
    assert await answer("go left") == (0, 0)
    assert await answer("go right") == (1, 1)
    told = success(task_id="t1", comment="nice")
    del told["outcome"]
    await train(store, 3)
    await store.append([incoming(told)])
    assert await waiting(store) == (0, 0)


async def test_what_is_said_while_a_training_reads_is_new_to_the_next(store: SqlStore) -> None:
    """Of old episodes and of those that this training is the first to read."""
    await store.start_scenario("airline", "chat", now_ms=1)
    old = await attempt(store, "old", success(task_id="old"))
    await train(store, 1)
    await attempt(store, "young", success(task_id="young"))
    await attempt(store, "taught", failure(task_id="taught"))
    seen = await look(store)
    told = success(task_id="taught", demonstration="better")
    del told["outcome"]
    await store.append([incoming(told), incoming(failure(task_id="young"))])
    await store.set_outcome(old, Failure("late"))
    await train(store, 2, seen=seen)
    assert await waiting(store) == (3, 3)


async def test_what_a_training_saw_all_the_same_is_not_new(store: SqlStore) -> None:
    """An episode that was read after the verdict came, though the training had begun before."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one = await attempt(store, "t1", success(task_id="t1"))
    two = await attempt(store, "t2", success(task_id="t2"))
    await train(store, 1)
    seen = await look(store)
    await store.append([incoming(failure(task_id="t1")), incoming(failure(task_id="t2"))])
    [read] = await store.lessons.read([one])
    seen = msgspec.structs.replace(seen, later={one: read.reach})
    await train(store, 2, seen=seen)
    material = await store.lessons.material("airline", "chat", limit=9)
    assert (material.episode_ids, material.num_changed) == ((two, one), 1)


async def test_quality_sees_the_outcomes_that_changed(store: SqlStore) -> None:
    """Since the last training, whenever the episode was made."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one = await attempt(store, "t1", success(task_id="t1"))
    await attempt(store, "t2", success(task_id="t2"))
    await train(store, 1)
    assert await recent(store) == []
    await store.set_outcome(one, Failure("reopened"))
    await attempt(store, "t3", success(task_id="t3"))
    assert await recent(store) == ["success", "failure"]


async def test_new_and_changed_episodes_are_read_first(store: SqlStore) -> None:
    """A training that may look at few episodes still learns from what was said since the last."""
    await store.start_scenario("airline", "chat", now_ms=1)
    ids = [await attempt(store, f"t{n}", success(task_id=f"t{n}")) for n in range(5)]
    await train(store, 1)
    ids.append(await attempt(store, "t5", success(task_id="t5")))
    await store.set_outcome(ids[0], Failure("reopened"))
    material = await store.lessons.material("airline", "chat", limit=3)
    assert material.episode_ids == (ids[5], ids[0], ids[4])
    assert (material.num_new, material.num_changed, material.episode_count) == (1, 1, 6)
    none = await store.lessons.material("airline", "chat", limit=0)
    assert (none.episode_ids, none.episode_count) == ((), 6)


async def test_whole_episodes_are_read_in_the_order_asked_for(store: SqlStore) -> None:
    """Each with the newest verdict and record that it tells; one that is gone is left out."""
    one = await attempt(store, "t1", success(task_id="t1"))
    two = await attempt(store, "t2")
    found = await store.lessons.read([two, "gone", one])
    assert [read.episode.id for read in found] == [two, one]
    assert [read.reach for read in found] == [Reach(0, 3), Reach(1, 2)]


async def test_an_episode_tells_what_learned_from_it_and_by_which_verdict(store: SqlStore) -> None:
    """Each run by what it saw, whatever was said later."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one = await attempt(store, "t1", success(0.5, task_id="t1", source="ann", version="v1"))
    await train(store, 1, seen=await look(store), on=[one])
    await store.append([incoming(success(1.0, task_id="t1", source="ben"))])
    seen = await look(store)
    await store.append([incoming(failure("no", task_id="t1", source="ann", version="v2"))])
    await train(store, 2, seen=seen, on=[one, "other"])
    await train(store, 3, seen=await look(store), on=["other"])
    await train(store, 4, on=[one])
    found = await store.lessons.of(one)
    assert [
        (lesson.model_id, lesson.run_id, lesson.outcome, lesson.source, lesson.version)
        for lesson in found
    ] == [
        ("airline@1", "run-1", Success(0.5), "ann", "v1"),
        ("airline@2", "run-2", Success(1.0), "ben", None),
        ("airline@4", "run-4", None, None, None),  # of a version that did not write it down
    ]
    assert await store.lessons.of("nobody") == []


async def test_ids_of_verdicts_are_not_given_twice(store: SqlStore) -> None:
    """What a run has seen stays true when the newest verdicts are taken out."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one = await attempt(store, "t1", success(task_id="t1"))
    gone = await attempt(store, "t2", success(task_id="t2"))
    seen = await look(store)
    await train(store, 1, seen=seen, on=[one])

    await store.keeping.remove(await store.keeping.find(Whose("episode", gone)), forever=True)
    newer = await attempt(store, "t3", success(task_id="t3"))
    await store.keeping.remove(await store.keeping.find(Whose("episode", newer)), forever=True)
    await store.set_outcome(one, Failure("late"))
    assert (await store.lessons.of(one))[0].outcome == Success(1.0)
    assert (await look(store)).newest.verdict > seen.newest.verdict


async def test_a_changed_episode_that_is_forgotten_waits_no_more(store: SqlStore) -> None:
    """The counter of changed ones goes by what is there; what has changed for others stays."""
    await store.start_scenario("airline", "chat", now_ms=1)
    one, two, three = [await attempt(store, f"t{n}", success(task_id=f"t{n}")) for n in (1, 2, 3)]
    await train(store, 1)
    for id in (one, two):
        await store.set_outcome(id, Failure("late"))
    assert await waiting(store) == (2, 2)
    for gone, left in ((one, (1, 1)), (three, (1, 1)), (two, (0, 0))):
        await store.keeping.remove(await store.keeping.find(Whose("episode", gone)), forever=True)
        assert await waiting(store) == left


async def test_imports_that_never_started_have_nothing_to_settle(store: SqlStore) -> None:
    """An outcome of an episode without a scenario moves no counter of another."""
    made = episode(Success(), scenario=None)
    assert await store.add_episode(made, [])
    await store.start_scenario("airline", "chat", now_ms=1)
    await train(store, 1)
    await store.set_outcome(made.id, Failure("no"))
    assert await waiting(store) == (0, 0)
