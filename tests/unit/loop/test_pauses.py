"""A run whose rule asks for silence stops when somebody speaks, and goes on when it is silent again."""

import dataclasses
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.job import TrainSettings
from honed.domain.trained_model import Selection
from honed.errors import BusyError
from honed.loop import resumption
from honed.ports import OnProgress, Trained, TrainingSet, TrainRequest
from honed.stores import SqlStore
from tests.unit.loop.conftest import SCENARIO, Sets, Training
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


class CheckpointedTraining(Training):
    """A processor that leaves a checkpoint when it is stopped."""

    step = 1

    async def train(self, request: TrainRequest, *, on_progress: OnProgress) -> Trained:
        try:
            return await super().train(request, on_progress=on_progress)
        except anyio.get_cancelled_exc_class():
            assert request.checkpoints_path is not None
            seal = request.checkpoints_path / f"smaller-0/checkpoint-{self.step}/complete.json"
            seal.parent.mkdir(parents=True, exist_ok=True)
            seal.write_bytes(b"{}")
            raise


class Swarm(Parts):
    """A loop on a store in which the time of the last event is what the test says."""

    def __init__(self, store: SqlStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(store, folder, trigger=HUSH, sets=FileSets(store))
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
        async def paused() -> str | None:
            return self.loop.paused_id

        self.speak()
        found: str = await self.until(paused)
        self.training.started = anyio.Event()
        return found


async def test_it_goes_on_under_its_own_id_when_it_is_silent_again(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else starts meanwhile; in the end there is one run and one model."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with anyio.create_task_group() as tasks:
        await tasks.start(swarm.loop.run)
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
        assert not (swarm.runs_dir / paused / resumption.CHECKPOINTS).exists()
        tasks.cancel_scope.cancel()


async def test_a_paused_run_can_be_cancelled(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written down as such, and nothing starts before there is something new."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with anyio.create_task_group() as tasks:
        await tasks.start(swarm.loop.run)
        await swarm.begin()
        paused = await swarm.pause()
        assert swarm.loop.cancel() == paused
        (run,) = await swarm.ended()
        assert (run.state, run.message) == ("cancelled", "stopped by the operator")
        swarm.fall_silent()
        await swarm.loop.beat()
        await swarm.loop.beat()
        assert len(await swarm.runs()) == 1
        tasks.cancel_scope.cancel()


async def test_a_daemon_that_ends_leaves_a_run_that_goes_on(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next daemon goes on with it, though its rule has nothing new to fire on."""
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with anyio.create_task_group() as tasks:
        await tasks.start(swarm.loop.run)
        await swarm.begin()
        tasks.cancel_scope.cancel()
    (run,) = await swarm.runs()
    assert run.state == "running"
    swarm = Swarm(store, tmp_path, monkeypatch)
    async with anyio.create_task_group() as tasks:
        await tasks.start(swarm.loop.run)
        (run,) = await swarm.ended()
        assert run.state == "done"
        tasks.cancel_scope.cancel()


async def test_a_run_that_comes_no_further_is_given_up(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends its daemon each time, at the same step, does not do so for ever."""
    for number in range(resumption.TRIES + 1):
        assert [run.state for run in await store.list_runs(SCENARIO)] == ["running"][:number]
        swarm = Swarm(store, tmp_path, monkeypatch)
        swarm.training.may_end = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(swarm.loop.run)
            if not number:
                await swarm.add(1, 3)
            await swarm.training.started.wait()
            tasks.cancel_scope.cancel()
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
