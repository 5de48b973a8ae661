"""Runs that wait for a person: shown, approved, rejected, across restarts; on a real store and real training sets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from honed.domain.outcome import Success
from honed.errors import ControlError, NotFoundError, TrainingError
from honed.learn_models import create
from honed.loop import Approval
from honed.stores import SqlStore
from honed.training_sets import EpisodeTrainingSets
from tests.unit.loop.conftest import SCENARIO
from tests.unit.loop.test_trigger_loop import Parts
from tests.unit.training_sets.test_builder import KEPT, SECRET, add, told

pytestmark = pytest.mark.anyio


class Reviewed(Parts):
    """A loop whose runs wait for a person."""

    def __init__(self, store: SqlStore, folder: Path, *, is_required: bool = True) -> None:
        sets = EpisodeTrainingSets(
            store, create("chat"), scenario=SCENARIO, secret=SECRET, min_rows=1
        )
        super().__init__(store, folder, trigger="count(2)", sets=sets)
        self.approval = Approval(
            store,
            sets,
            scenario=SCENARIO,
            learn_model="chat",
            scratch=folder / "runs",
            is_required=is_required,
            announce=lambda type, details: self.events.append((type, details)),
            wake=self.loop.notify,
        )
        self.loop.approval = self.approval

    async def tell(self, *places: int) -> list[str]:
        """Episodes of these tasks, successes all of them; their ids."""
        made = [
            await add(self.store, told(KEPT[at], Success(), scenario=SCENARIO)) for at in places
        ]
        self.loop.notify()
        return made

    async def waiting(self) -> str:
        """The id of the run that waits, once one does."""

        async def look() -> str | None:
            review = self.approval.now
            return review.id if review and review.approved_by is None else None

        found: str = await self.until(look)
        return found

    def types(self) -> list[str]:
        return [type for type, _ in self.events]


@asynccontextmanager
async def reviewed(
    store: SqlStore, folder: Path, *, is_required: bool = True
) -> AsyncIterator[Reviewed]:
    parts = Reviewed(store, folder, is_required=is_required)
    async with anyio.create_task_group() as tasks:
        await tasks.start(parts.loop.run)
        yield parts
        tasks.cancel_scope.cancel()


async def test_a_rule_that_fires_makes_a_run_wait_across_restarts(
    store: SqlStore, tmp_path: Path
) -> None:
    """Nothing trains; the next process finds the same run with the same episodes."""
    async with reviewed(store, tmp_path) as parts:
        ids = await parts.tell(0, 1)
        run_id = await parts.waiting()
        assert "review.pending" in parts.types()
        await parts.loop.beat()
        await parts.loop.beat()
        assert await parts.runs() == []
    left = tmp_path / "runs" / ".review-cut-off"
    left.mkdir(parents=True)
    (left / "chat.jsonl").write_text("what somebody said")
    async with reviewed(store, tmp_path) as again:
        assert await again.waiting() == run_id
        assert not left.exists()
        assert again.approval.now is not None
        assert sorted(again.approval.now.material.episode_ids) == sorted(ids)
        assert "review.pending" not in again.types()


async def test_an_approved_run_learns_what_was_shown_and_nothing_later(
    store: SqlStore, tmp_path: Path
) -> None:
    """Episodes that came while it waited are the next run's, and count as new."""
    async with reviewed(store, tmp_path) as parts:
        ids = await parts.tell(0, 1)
        run_id = await parts.waiting()
        await parts.tell(2, 3)
        shown = await parts.approval.preview(num_rows=9)
        assert shown.data_digest is not None
        await parts.approval.approve(said_by="ann", data_digest=shown.data_digest[:12])
        (run,) = await parts.ended()
        assert (run.id, run.state, run.approved_by) == (run_id, "done", "ann")
        assert parts.training.requests[0].training_set.episode_ids == tuple(sorted(ids))
        assert parts.training.requests[0].training_set.data_digest == shown.data_digest
        assert await parts.waiting() != run_id  # the two that came meanwhile fire


async def test_what_has_changed_since_it_was_shown_is_not_approved(
    store: SqlStore, tmp_path: Path
) -> None:
    """The digest names what was seen; a drop by somebody else makes it another file."""
    async with reviewed(store, tmp_path) as parts:
        ids = await parts.tell(0, 1)
        await parts.waiting()
        shown = await parts.approval.preview(num_rows=0)
        assert await parts.approval.remark(ids[:1], "drop", said_by="bob") == 1
        assert await parts.approval.remark(ids[:1], "drop", said_by="eve") == 0
        with pytest.raises(ControlError, match="have changed since they were shown"):
            await parts.approval.approve(said_by="ann", data_digest=shown.data_digest)
        await parts.approval.approve(said_by="ann")
        (run,) = await parts.ended()
        assert parts.training.requests[0].training_set.episode_ids == (ids[1],)
        assert run.left_out == {"dropped in review": 1}


async def test_a_failed_run_is_tried_again_without_asking_unless_its_data_have_changed(
    store: SqlStore, tmp_path: Path
) -> None:
    """The approval is of the data, not of one attempt; what changes meanwhile is asked for again."""
    async with reviewed(store, tmp_path) as parts:
        parts.training.fault = TrainingError("out of memory")
        ids = await parts.tell(0, 1)
        first = await parts.waiting()
        await parts.approval.approve(said_by="ann")
        await parts.ended(1)
        await _forget_backoff(store)
        parts.loop.notify()
        failed = await parts.ended(2)
        assert [run.state for run in failed] == ["failed", "failed"]
        assert [run.review_id for run in failed] == [first, first]
        await parts.approval.remark(ids[:1], "drop", said_by="bob")
        await _forget_backoff(store)
        parts.loop.notify()
        assert await parts.waiting() == first
        assert "review.reopened" in parts.types()
        assert len(await parts.runs()) == 2


async def test_a_disk_that_takes_no_preview_ends_no_loop(store: SqlStore, tmp_path: Path) -> None:
    """What cannot be looked at now is looked at again."""
    async with reviewed(store, tmp_path) as parts:
        parts.training.fault = TrainingError("out of memory")
        await parts.tell(0, 1)
        await parts.waiting()
        await parts.approval.approve(said_by="ann")
        await parts.ended(1)
        runs = tmp_path / "runs"
        runs.rename(tmp_path / "aside")
        runs.touch()
        await _forget_backoff(store)
        await parts.loop.beat()
        await parts.loop.beat()
        assert len(await parts.runs()) == 1
        runs.unlink()
        (tmp_path / "aside").rename(runs)
        parts.loop.notify()
        assert len(await parts.ended(2)) == 2


async def _forget_backoff(store: SqlStore) -> None:
    """As if the wait after a failure were over."""
    run = (await store.list_runs(SCENARIO))[0]
    await store.end_run(run, backoff_s=0.0)


async def test_a_rejected_run_moves_on(store: SqlStore, tmp_path: Path) -> None:
    """Its episodes do not fire again; two new ones do, and the list of runs says who rejected it and why."""
    async with reviewed(store, tmp_path) as parts:
        await parts.tell(0, 1)
        run_id = await parts.waiting()
        await parts.approval.reject(said_by="ann", note="a broken week")
        (run,) = await parts.ended()
        assert (run.id, run.state) == (run_id, "skipped")
        assert run.message == "rejected in review by ann: a broken week"
        await parts.loop.beat()
        assert parts.approval.now is None
        await parts.tell(2)
        await parts.loop.beat()
        assert parts.approval.now is None
        await parts.tell(3)
        assert await parts.waiting() != run_id
        assert parts.training.requests == []


async def test_train_now_waits_as_well_and_once(store: SqlStore, tmp_path: Path) -> None:
    """Whoever asks for a training past the rule does not get past the review."""
    async with reviewed(store, tmp_path) as parts:
        await parts.tell(0)
        run_id = parts.loop.train_now()
        assert await parts.waiting() == run_id
        with pytest.raises(ControlError, match="waits for a review"):
            parts.loop.train_now()
        await parts.approval.approve(said_by="ann")
        (run,) = await parts.ended()
        assert (run.id, run.reason, run.state) == (run_id, "train-now", "done")


async def test_an_approval_survives_the_end_of_the_daemon(store: SqlStore, tmp_path: Path) -> None:
    """Approved before the kill: the next process trains without asking again."""
    async with reviewed(store, tmp_path) as parts:
        await parts.tell(0, 1)
        run_id = await parts.waiting()
        parts.training.may_end = anyio.Event()
        await parts.approval.approve(said_by="ann")
        await parts.training.started.wait()
    async with reviewed(store, tmp_path) as again:
        states = {run.id == run_id: run.state for run in await again.ended(2)}
        assert states == {True: "cancelled", False: "done"}
        assert {(run.review_id, run.approved_by) for run in await again.runs()} == {(run_id, "ann")}

        async def is_over() -> bool:
            return await store.reviews.waiting(SCENARIO, "chat") is None

        await again.until(is_over)


async def test_without_the_setting_nothing_waits(store: SqlStore, tmp_path: Path) -> None:
    """Turned off in a restart, what waited is forgotten and the rule trains."""
    async with reviewed(store, tmp_path) as parts:
        await parts.tell(0, 1)
        await parts.waiting()
    async with reviewed(store, tmp_path, is_required=False) as again:
        (run,) = await again.ended()
        assert (run.state, run.review_id) == ("done", None)
        with pytest.raises(ControlError, match="no run waits"):
            await again.approval.approve(said_by="ann")
        with pytest.raises(NotFoundError):
            await again.approval.remark(["nowhere"], "drop", said_by="ann")


async def test_what_would_train_on_nothing_is_not_approved(store: SqlStore, tmp_path: Path) -> None:
    """Everything dropped: there is nothing to let run."""
    async with reviewed(store, tmp_path) as parts:
        ids = await parts.tell(0, 1)
        await parts.waiting()
        await parts.approval.remark(ids, "drop", said_by="ann")
        with pytest.raises(ControlError, match="would train on nothing: no training rows"):
            await parts.approval.approve(said_by="ann")
