"""A run whose rule asks for silence stops when somebody speaks, and goes on when it is silent again."""

import dataclasses
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.job import TrainSettings
from honed.domain.run_files import CHECKPOINTS
from honed.domain.trained_model import Selection
from honed.errors import BusyError, StoreError
from honed.loop import Approval, resumption, trigger_loop
from honed.ports import Material, OnProgress, Trained, TrainingSet, TrainRequest
from honed.stores import SqlStore
from honed.triggers.text import parse
from tests.unit.loop.conftest import SCENARIO, Sets, Training, model
from tests.unit.loop.test_trigger_loop import Parts

pytestmark = pytest.mark.anyio

HUSH = 'quiet("1h")'


class FileSets(Sets):
    """Training sets that are files."""

    async def build(self, folder: Path, *, selection: Selection = "successes") -> TrainingSet:
        built = await super().build(folder, selection=selection)
        built.data_path.write_bytes(b"{}\n")
        digest = hashlib.sha256(b"{}\n").hexdigest()
        return msgspec.structs.replace(built, data_digest=digest)


@asynccontextmanager
async def at_work(swarm: "Swarm") -> AsyncIterator[None]:
    """Its loop runs in the body, as long as its daemon."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(swarm.loop.run)
        yield
        tasks.cancel_scope.cancel()


class ReviewedSets(FileSets):
    """Training sets that can be looked at beforehand."""

    async def build(self, folder: Path, **more: Any) -> TrainingSet:
        return await super().build(folder)

    async def material(self) -> Material:
        return await self._store.lessons.material(SCENARIO, "chat", limit=9)

    async def preview(self, scratch: Path, **more: Any) -> Any:
        digest = hashlib.sha256(b"{}\n").hexdigest()
        return SimpleNamespace(data_digest=digest, problem=None)


class CheckpointedTraining(Training):
    """A processor that leaves a checkpoint when it is stopped."""

    step = 1
    leaves_checkpoints = True

    async def train(self, request: TrainRequest, *, on_progress: OnProgress) -> Trained:
        try:
            return await super().train(request, on_progress=on_progress)
        except anyio.get_cancelled_exc_class():
            if not self.leaves_checkpoints:
                raise
            assert request.checkpoints_path is not None
            seal = request.checkpoints_path / f"smaller-0/checkpoint-{self.step}/complete.json"
            seal.parent.mkdir(parents=True, exist_ok=True)
            seal.write_bytes(b"{}")
            raise


class Swarm(Parts):
    """A loop on a store in which the time of the last event is what the test says."""

    def __init__(
        self,
        store: SqlStore,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        trigger: str = HUSH,
    ) -> None:
        super().__init__(store, folder, trigger=trigger, sets=FileSets(store))
        self.training = CheckpointedTraining()
        runs = self.loop._runs
        assert runs is not None
        runs._processor = self.training
        self.runs_dir = folder / "runs"
        self.silent_for = timedelta(hours=2)
        facts = store.trigger_context

        async def trigger_context(*args: Any, **more: Any) -> Any:
            found = await facts(*args, **more)
            return dataclasses.replace(found, last_event_at=found.now - self.silent_for)

        monkeypatch.setattr(store, "trigger_context", trigger_context)

    def speak(self) -> None:
        self.silent_for = timedelta(0)
        self.loop.notify()

    def fall_silent(self) -> None:
        self.silent_for = timedelta(hours=2)
        self.loop.notify()

    async def begin(self) -> None:
        self.training.may_end = anyio.Event()
        await self.add(1, 3)
        await self.training.started.wait()

    async def pause(self) -> str:
        self.training.started = anyio.Event()
        self.speak()
        return await self.paused()

    async def paused(self) -> str:
        async def paused() -> str | None:
            return self.loop.paused_id

        found: str = await self.until(paused)
        return found

    async def stopped(self) -> None:
        """No run is in progress."""

        async def nothing_runs() -> bool:
            return self.loop.running_id is None

        await self.until(nothing_runs)


async def test_it_goes_on_under_its_own_id_when_it_is_silent_again(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else starts meanwhile; in the end there is one run and one model."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
        paused = await swarm.pause()
        (run,) = await swarm.runs()
        assert (run.id, run.state) == (paused, "running")
        with pytest.raises(BusyError, match="paused until its rule allows it"):
            swarm.loop.train_now()
        swarm.training.may_end.set()
        swarm.fall_silent()
        (run,) = await swarm.ended()
        assert (run.id, run.state, run.model_id) == (paused, "done", "airline@1")
        first, second = swarm.training.requests
        assert first.training_set == second.training_set
        assert first.checkpoints_path == second.checkpoints_path
        assert not (swarm.runs_dir / paused / CHECKPOINTS).exists()


async def test_a_paused_run_can_be_cancelled(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written down as such, and nothing starts before there is something new."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
        paused = await swarm.pause()
        assert swarm.loop.cancel() == paused
        (run,) = await swarm.ended()
        assert (run.state, run.message) == ("cancelled", "stopped by the operator")
        swarm.fall_silent()
        await swarm.loop.beat()
        await swarm.loop.beat()
        assert len(await swarm.runs()) == 1


async def test_a_run_is_cancelled_while_it_stops_for_a_pause(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever says cancel is obeyed, however far the pause is and however often the loop looks meanwhile."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    stops, may_stop = anyio.Event(), anyio.Event()
    runs = swarm.loop._runs
    assert runs is not None
    stopped = runs._stopped

    async def slowly(*args: Any) -> None:
        stops.set()
        await may_stop.wait()
        await stopped(*args)

    monkeypatch.setattr(runs, "_stopped", slowly)
    async with at_work(swarm):
        await swarm.begin()
        swarm.speak()
        await stops.wait()
        assert swarm.loop.cancel() is not None
        await swarm.loop.beat()
        may_stop.set()
        (run,) = await swarm.ended()
        assert (run.state, run.message) == ("cancelled", "stopped by the operator")
        await swarm.stopped()
        assert swarm.loop.paused_id is None


async def test_another_rule_decides_about_a_paused_run(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that asks for silence still finds the swarm talking; one that does not lets it go on."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
        paused = await swarm.pause()
        swarm.training.may_end.set()
        swarm.loop.follow(parse('quiet("2m")'), check_interval=timedelta(milliseconds=20))
        await swarm.loop.beat()
        await swarm.loop.beat()
        assert swarm.loop.paused_id == paused
        swarm.loop.follow(parse("count(3)"), check_interval=timedelta(milliseconds=20))
        (run,) = await swarm.ended()
        assert (run.id, run.state) == (paused, "done")


async def test_a_pause_without_a_checkpoint_is_no_deed_of_the_operator(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why it ended, and what it was to learn from is learned when the rule allows it again."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    swarm.training.leaves_checkpoints = False
    async with at_work(swarm):
        await swarm.begin()
        swarm.speak()
        (run,) = await swarm.ended()
        assert run.state == "interrupted"
        assert run.message == (
            "its rule did not allow it any more, and it had no checkpoint to go on from"
        )
        swarm.training.may_end.set()
        swarm.fall_silent()
        again, _ = await swarm.ended(2)
        assert again.state == "done"


@pytest.mark.parametrize("broken", ["list_runs", "list_models"])
async def test_a_store_that_fails_while_a_run_is_paused(
    broken: str, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else starts, and the run waits as soon as that can be written down."""
    monkeypatch.setattr(trigger_loop, "_STORE_BACKOFF_S", 0.01)
    swarm = Swarm(store, tmp_path, monkeypatch)
    tried = anyio.Event()

    async def fails(*args: Any) -> None:
        tried.set()
        raise StoreError("database is locked")

    async with at_work(swarm):
        await swarm.begin()
        with monkeypatch.context() as patch:
            patch.setattr(store, broken, fails)
            swarm.training.started = anyio.Event()
            swarm.speak()
            await tried.wait()
            assert swarm.loop.running_id is not None
        paused = await swarm.paused()
        swarm.training.may_end.set()
        swarm.fall_silent()
        (run,) = await swarm.ended()
        assert (run.id, run.state) == (paused, "done")


async def test_a_store_that_fails_while_a_paused_run_is_cancelled(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, and cancels it when it can."""
    swarm = Swarm(store, tmp_path, monkeypatch)

    async def full(*args: Any, **more: Any) -> None:
        raise StoreError("database or disk is full")

    async with at_work(swarm):
        await swarm.begin()
        await swarm.pause()
        with monkeypatch.context() as patch:
            patch.setattr(store, "end_run", full)
            swarm.loop.cancel()
            await swarm.loop.beat()
            await swarm.loop.beat()
        (run,) = await swarm.ended()
        assert run.state == "cancelled"


async def test_an_approved_run_is_paused_as_well(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever approved it need not look again."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    sets = ReviewedSets(store)
    assert swarm.loop._runs is not None
    swarm.loop._runs._training_sets = sets
    approval = Approval(
        store,
        sets,
        scenario=SCENARIO,
        learn_model="chat",
        scratch=tmp_path / "runs",
        is_required=True,
        announce=lambda *told: None,
    )
    swarm.loop.approval, approval.wake = approval, swarm.loop.notify

    async def waits() -> bool:
        return approval.now is not None

    async with at_work(swarm):
        swarm.training.may_end = anyio.Event()
        await swarm.add(1, 3)
        await swarm.until(waits)
        await approval.approve(said_by="ann")
        await swarm.training.started.wait()
        paused = await swarm.pause()
        swarm.training.may_end.set()
        swarm.fall_silent()
        (run,) = await swarm.ended()
        assert (run.id, run.state, run.approved_by) == (paused, "done", "ann")
        await swarm.stopped()
        assert approval.now is None


async def test_a_run_of_another_learn_model_is_closed(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that names another one since does not make its adapter one of that."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
    (run,) = await swarm.runs()
    await store.start_scenario(SCENARIO, "worker_task", now_ms=1)
    await store.end_run(msgspec.structs.replace(run, learn_model="worker_task", ended_at_ms=1))
    swarm = Swarm(store, tmp_path, monkeypatch, trigger="never()")
    async with at_work(swarm):
        (run,) = await swarm.ended()
        assert run.state == "interrupted"


async def test_a_run_that_was_registered_is_not_done_again(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the adapter and its verdict: a new run makes up for it, under a name of its own."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
    (run,) = await swarm.runs()
    number = await store.next_model_number(SCENARIO)
    await store.add_model(model(f"airline@{number}", run_id=run.id))
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        new, old = await swarm.ended(2)
        assert (new.state, old.state) == ("done", "interrupted")


async def test_a_daemon_that_ends_leaves_a_run_that_goes_on(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon goes on with it, though its rule has nothing new to fire on."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        await swarm.begin()
    (run,) = await swarm.runs()
    assert run.state == "running"
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with at_work(swarm):
        (run,) = await swarm.ended()
        assert run.state == "done"


async def test_a_run_that_comes_no_further_is_given_up(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends its daemon each time, at the same step, does not do so for ever."""
    for number in range(resumption.TRIES + 1):
        assert [run.state for run in await store.list_runs(SCENARIO)] == ["running"][:number]
        swarm = Swarm(store, tmp_path, monkeypatch)
        swarm.training.may_end = anyio.Event()
        async with at_work(swarm):
            if not number:
                await swarm.add(1, 3)
            await swarm.training.started.wait()
    (run,) = await store.list_runs(SCENARIO)
    assert run.state == "cancelled"


async def test_files_that_somebody_was_taken_out_of_are_not_gone_on_with(tmp_path: Path) -> None:
    """Whoever is forgotten must not be learned from, not even by a run that was begun before."""
    data = tmp_path / "chat.jsonl"
    data.write_bytes(b"{}\n")
    built = TrainingSet(
        data_path=data,
        held_out_path=tmp_path / "held_out.jsonl",
        episode_ids=(),
        held_out=(),
        data_digest=hashlib.sha256(b"{}\n").hexdigest(),
        num_rows=1,
        episode_count=1,
        left_out={},
    )
    seal = tmp_path / "checkpoints/smaller-0/checkpoint-4/complete.json"
    seal.parent.mkdir(parents=True)
    seal.write_bytes(b"{}")
    plan = resumption.Plan(
        model_id="airline@1",
        base_model="org/tiny",
        settings=TrainSettings(),
        training_set=built,
        against_base=False,
        counts=True,
    )
    resumption.write_plan(tmp_path, plan)
    found = resumption.read_plan(tmp_path)
    assert found is not None
    assert (found.training_set, found.step, found.tries) == (built, 4, 1)
    data.write_bytes(b"")
    assert resumption.read_plan(tmp_path) is None
