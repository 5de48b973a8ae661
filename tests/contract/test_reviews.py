"""What people remark on episodes and the run that waits for them, on every store."""

import msgspec
import pytest

from honed.domain.run import Run
from honed.domain.verdict import Reach, Seen
from honed.errors import NotFoundError, StoreError
from honed.ports import Material, Remark, RemarkKind, Review, Whose
from honed.stores import SqlStore
from tests.contract.test_lessons import attempt

pytestmark = pytest.mark.anyio


def remark(
    episode_id: str, kind: RemarkKind, at_ms: int = 1, by: str = "ann", note: str | None = None
) -> Remark:
    return Remark(episode_id=episode_id, kind=kind, said_by=by, at_ms=at_ms, note=note)


def review(**changed: object) -> Review:
    made = Review(
        id="run-1",
        scenario="airline",
        learn_model="chat",
        reason="count(2)",
        at_ms=5,
        material=Material(
            ("e1", "e2"), num_new=2, num_changed=0, episode_count=2, reach=Reach(3, 4)
        ),
    )
    return msgspec.structs.replace(made, **changed)


async def test_the_newest_drop_or_keep_counts_and_saying_it_twice_is_once(store: SqlStore) -> None:
    """Whoever drops a dropped episode adds nothing; who kept it when is still there."""
    one, other = await attempt(store, "t1"), await attempt(store, "t2")
    reviews = store.reviews
    assert await reviews.remark([remark(one, "drop"), remark(other, "keep")]) == [True, False]
    assert await reviews.remark([remark(one, "drop", 2, by="bob")]) == [False]
    assert await reviews.dropped([one, other]) == {one}
    assert await reviews.remark([remark(one, "keep", 3, by="bob")]) == [True]
    assert await reviews.dropped([one, other]) == frozenset()
    assert await reviews.remarks([one, other]) == [
        remark(one, "drop"),
        remark(one, "keep", 3, by="bob"),
    ]


async def test_notes_add_up_and_drop_nothing(store: SqlStore) -> None:
    """Two people may say the same; one person's words count once, whenever they are said."""
    one = await attempt(store, "t1")
    said = [
        remark(one, "note", 1, note="odd"),
        remark(one, "note", 2, note="odd"),
        remark(one, "note", 3, by="bob", note="odd"),
    ]
    assert await store.reviews.remark(said) == [True, False, True]
    assert await store.reviews.dropped([one]) == frozenset()
    assert await store.reviews.remarks([one]) == [said[0], said[2]]


async def test_an_unknown_episode_adds_none_of_the_remarks(store: SqlStore) -> None:
    """Half a list is not written down."""
    one = await attempt(store, "t1")
    with pytest.raises(NotFoundError, match="nowhere"):
        await store.reviews.remark([remark(one, "drop"), remark("nowhere", "drop")])
    assert await store.reviews.remarks([one]) == []


async def test_forgetting_takes_the_remarks_along(store: SqlStore) -> None:
    """What was said of an attempt goes with the attempt; dropping it has removed nothing."""
    one, other = await attempt(store, "t1"), await attempt(store, "t2")
    await store.reviews.remark([remark(one, "drop"), remark(other, "drop")])
    assert (await store.get_episode(one)).task_id == "t1"
    await store.keeping.remove(await store.keeping.find(Whose("episode", one)), forever=True)
    assert [said.episode_id for said in await store.reviews.remarks([one, other])] == [other]


async def test_a_run_waits_with_all_that_ordered_it(store: SqlStore) -> None:
    """It is read back whole, one for each learn model, until it ends."""
    reviews = store.reviews
    other = review(id="run-2", learn_model="worker_task", selection="blind", counts=False)
    await reviews.wait(review())
    await reviews.wait(other)
    approved = review(approved_by="ann", data_digest="d" * 64)
    await reviews.wait(approved)
    assert await reviews.waiting("airline", "chat") == approved
    assert await reviews.waiting("airline", "worker_task") == other
    await reviews.end("run-1")
    await reviews.end("run-1")
    assert await reviews.waiting("airline", "chat") is None
    assert await reviews.waiting("airline", "worker_task") == other


def skipped() -> Run:
    """The run of `review()`, rejected."""
    return Run(
        id="run-1",
        scenario="airline",
        learn_model="chat",
        state="skipped",
        started_at_ms=9,
        ended_at_ms=9,
        reason="count(2)",
        selection="successes",
        review_id="run-1",
    )


async def test_a_rejected_run_is_written_down_and_waits_no_more(store: SqlStore) -> None:
    """The counters move on, and the run of another learn model still waits."""
    await store.start_scenario("airline", "chat", now_ms=1)
    other = review(id="run-2", learn_model="worker_task")
    await store.reviews.wait(review())
    await store.reviews.wait(other)
    await store.skip_run(skipped(), trained_count=2, seen=Seen(newest=Reach(3, 4)))
    assert await store.list_runs("airline") == [skipped()]
    state = await store.start_scenario("airline", "chat", now_ms=2)
    assert (state.last_train_count, state.last_train_at_ms) == (2, 9)
    assert await store.reviews.waiting("airline", "chat") is None
    assert await store.reviews.waiting("airline", "worker_task") == other


async def test_a_rejection_that_cannot_be_written_leaves_everything_as_it_was(
    store: SqlStore,
) -> None:
    """A run of that id is there already: the review still waits, and the counters stand."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await store.reviews.wait(review())
    ended = skipped()
    await store.add_run(ended)
    with pytest.raises(StoreError):
        await store.skip_run(ended, trained_count=2, seen=Seen(newest=Reach(3, 4)))
    state = await store.start_scenario("airline", "chat", now_ms=2)
    assert (state.last_train_count, state.last_train_at_ms) == (0, None)
    assert await store.reviews.waiting("airline", "chat") == review()


async def test_a_skipped_run_of_no_review_ends_no_other(store: SqlStore) -> None:
    """One that nobody had to look at leaves what waits, and the counters, as they are."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await store.reviews.wait(review())
    await store.skip_run(msgspec.structs.replace(skipped(), id="run-9", review_id=None))
    assert await store.reviews.waiting("airline", "chat") == review()
    assert (await store.start_scenario("airline", "chat", now_ms=2)).last_train_count == 0
