"""Several learn models in one scenario: a loop and an adapter line for each, one training at a time."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest

from honed.config import Config
from honed.domain.job import TrainSettings
from honed.errors import ApplyError, BusyError, ConfigError, ControlError
from honed.loop import InService, Lines, TrainingRuns, TriggerLoop
from honed.ports import EpisodeFilter, TrainingSet
from honed.process import running
from honed.rooms import learn_models_of, lines_of
from honed.stores import SqlStore
from honed.triggers.text import parse
from tests.unit.loop.conftest import SCENARIO, Always, Serving, Sets, Training, episode, gate, model

pytestmark = pytest.mark.anyio
NAMES = ("worker_task", "chat")


class SetsOf(Sets):
    """Training sets of one learn model's episodes."""

    def __init__(self, store: SqlStore, learn_model: str) -> None:
        super().__init__(store)
        self._learn_model = learn_model

    async def build(self, folder: Path, **more: Any) -> TrainingSet:
        found = await self._store.count_episodes(EpisodeFilter(learn_model=self._learn_model))
        empty = await super().build(folder, **more)
        return msgspec.structs.replace(empty, episode_ids=("e",) * found, episode_count=found)


class Trainer(Training):
    """A processor that says at once how many trainings it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = self.most_at_once = 0

    async def train(self, request: Any, **more: Any) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            trained = await super().train(request, **more)
        finally:
            self.at_once -= 1
        named = msgspec.structs.replace(trained.model, learn_model=request.learn_model)
        return trained._replace(model=named)


class Parts(NamedTuple):
    lines: Lines
    service: InService
    training: Trainer
    store: SqlStore

    async def ended(self, count: int) -> list[Any]:
        """Runs, once so many have ended; newest first."""
        with anyio.fail_after(60):
            while True:
                runs = [r for r in await self.store.list_runs(SCENARIO) if r.state != "running"]
                if len(runs) >= count:
                    return runs
                await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(
    store: SqlStore, folder: Path, *, trigger: str = "never()", names: Sequence[str] = NAMES
) -> AsyncIterator[Parts]:
    training, turn = Trainer(), anyio.Lock()
    service = InService(
        store, Serving(), scenario=SCENARIO, max_history=5, auto=True,
        announce=lambda *_: None, has_lines=True,
    )  # fmt: skip
    loops = [
        TriggerLoop(
            store,
            TrainingRuns(
                store, SetsOf(store, name), training, Always(), service, scenario=SCENARIO,
                learn_model=name, base_model="tiny", settings=TrainSettings(), runs_dir=folder,
                first_backoff_s=60.0, announce=lambda *_: None,
            ),
            parse(trigger),
            scenario=SCENARIO,
            learn_model=name,
            check_interval=timedelta(seconds=10),
            turn=turn,
            others=[other for other in names if other != name],
        )
        for name in names
    ]  # fmt: skip
    lines = Lines(loops)
    async with running(lines.run):
        yield Parts(lines, service, training, store)


async def add(store: SqlStore, count: int, learn_model: str, *, after: int = 0) -> None:
    for number in range(after, after + count):
        made = msgspec.structs.replace(episode(number), learn_model=learn_model)
        await store.add_episode(made, [])


async def test_each_learn_model_has_its_own_count(store: SqlStore, tmp_path: Path) -> None:
    """What one has learned from is new to the other: three episodes of the one do not start the other."""
    await add(store, 3, "worker_task")
    await add(store, 2, "chat", after=10)
    async with opened(store, tmp_path, trigger="count(3)") as parts:
        (run,) = await parts.ended(1)
        assert (run.learn_model, run.state) == ("worker_task", "done")
        await add(store, 1, "chat", after=20)
        parts.lines.notify()
        second, _ = await parts.ended(2)
        assert second.learn_model == "chat"
        states = [await loop.state() for loop in parts.lines.loops]
        assert [state.last_train_count for state in states] == [3, 3]


async def test_lines_train_in_turn(store: SqlStore, tmp_path: Path) -> None:
    """Both are due at once: one waits for the other, and can be stopped while it waits."""
    await add(store, 1, "worker_task")
    await add(store, 1, "chat", after=10)
    async with opened(store, tmp_path) as parts:
        parts.training.may_end = anyio.Event()
        ids = [parts.lines.train_now(learn_model=name) for name in NAMES]
        with pytest.raises(BusyError, match=ids[0]):
            parts.lines.train_now()
        with anyio.fail_after(60):
            await parts.training.started.wait()
        assert parts.training.at_once == 1
        with pytest.raises(ControlError, match="in progress"), parts.lines.at_rest():
            pass
        parts.training.may_end.set()
        assert {run.id for run in await parts.ended(2)} == set(ids)
        assert parts.training.most_at_once == 1
        assert [request.learn_model for request in parts.training.requests] == list(NAMES)


async def test_each_line_has_its_own_incumbent(store: SqlStore, tmp_path: Path) -> None:
    """A candidate is measured against the adapter of its own line, whatever the other has put in since."""
    await add(store, 1, "worker_task")
    await add(store, 1, "chat", after=10)
    async with opened(store, tmp_path) as parts:
        for count, name in enumerate([*NAMES, *NAMES], 1):
            parts.lines.train_now(learn_model=name)
            await parts.ended(count)
        measured = [r.incumbent.id if r.incumbent else None for r in parts.training.requests]
        assert measured == [None, None, "airline@1", "airline@2"]
        current = [await parts.service.current(name) for name in NAMES]
        assert [found.id for found in current if found] == ["airline@3", "airline@4"]
        with pytest.raises(ApplyError, match="several adapter lines"):
            await parts.service.rollback()
        await store.add_model(
            model("airline@9", learn_model="chat", gate=gate("pass", "airline@4"))
        )
        assert (await parts.service.apply("airline@9")).previous_model_id == "airline@4"  # type: ignore[union-attr]


async def test_a_line_is_asked_for_by_its_learn_model(store: SqlStore, tmp_path: Path) -> None:
    """The first when none is named; an unknown one is refused with those there are."""
    async with opened(store, tmp_path) as parts:
        assert parts.lines.of(None).learn_model == "worker_task"
        assert parts.lines.of("chat").learn_model == "chat"
        with pytest.raises(ControlError, match="'chess' here: expected one of worker_task, chat"):
            parts.lines.train_now(learn_model="chess")


async def test_only_ones_own_runs_are_closed_as_interrupted(
    store: SqlStore, tmp_path: Path
) -> None:
    """A run of the other line that has just begun is not taken for one that was left behind."""
    await add(store, 1, "worker_task")
    await add(store, 1, "chat", after=10)
    async with opened(store, tmp_path, trigger="count(1)") as parts:
        assert {run.state for run in await parts.ended(2)} == {"done"}


def config(**sections: Any) -> Config:
    return Config(scenario=SCENARIO, learn={"model": list(NAMES)}, **sections)  # type: ignore[arg-type]


async def test_several_lines_are_refused_where_one_is_served(store: SqlStore) -> None:
    """A gateway serves one adapter for each scenario; where nothing is served, or nothing trains, there may be more."""
    with pytest.raises(ConfigError, match="names 2 models") as caught:
        learn_models_of(config(base_model="tiny"))
    assert "apply.kind" in (caught.value.advice or "")
    for fine in (config(base_model="tiny", apply={"kind": "none"}), config()):
        models = learn_models_of(fine)
        lines = lines_of(fine, models, store, [])
        assert [loop.learn_model for loop in lines.loops] == list(NAMES)
