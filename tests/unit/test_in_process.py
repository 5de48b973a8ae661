"""A daemon inside a program: built by keywords, fed, trained, applied, counted, closed."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pydantic
import pytest

from honed import LearningDaemon, ProcessorMode
from honed.config import Config
from honed.domain.processing import OFFLINE_IS_MISSING
from honed.errors import BusyError, ConfigError, NotFoundError, ProcessFailedError, TrainingError
from honed.learn_models import create
from honed.stores import SqlStore, open_store
from tests.unit.loop.conftest import Always, Serving, Training

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def config_in(folder: Path, **changed: Any) -> Config:
    settings: dict[str, Any] = {
        "scenario": "airline",
        "data_dir": folder,
        "database": "sqlite://",
        "base_model": "org/tiny",
        "trigger": "manual()",
        "check_interval": 0.01,
        "apply": {"kind": "none"},
        "events": {"settle": "0s"},
        "train": {"min_rows": 1, "backoff": "60s"},
        "gate": {"held_out_fraction": 0.0001},
    }
    return Config(**settings | changed)


def attempt(number: int, *, success: bool = True) -> list[dict[str, Any]]:
    """The events of one attempt."""
    names = {"task_id": f"t{number}", "scenario": "airline"}
    outcome = {"type": "success"} if success else {"type": "failure", "reason": "no"}
    return [
        {
            "type": "llm_call",
            "event_id": f"call-{number}",
            "messages": [{"role": "user", "content": f"what is {number} and {number}?"}],
            "response_message": {"role": "assistant", "content": f"it is {number + number}"},
        }
        | names,
        {"type": "outcome", "event_id": f"said-{number}", "outcome": outcome} | names,
    ]


class Inside:
    """A daemon and the parts that it was given."""

    def __init__(self, config: Config, **parts: Any) -> None:
        self.training, self.serving = Training(), Serving()
        given = {"processor": self.training, "applier": self.serving, "gate": Always()} | parts
        self.daemon = LearningDaemon(config, **given)

    async def episodes(self, count: int) -> None:
        """Wait until so many were made."""
        with anyio.fail_after(20):
            while (await self.daemon.stats()).episodes_created < count:
                await anyio.sleep(0.005)


@asynccontextmanager
async def running(config: Config, **parts: Any) -> AsyncIterator[Inside]:
    inside = Inside(config, **parts)
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await inside.daemon.run(ready=ready.set)

        tasks.start_soon(run)
        await ready.wait()
        yield inside
        await inside.daemon.close()


@pytest.mark.feature("SE-127", "SE-131", "SE-132", "SE-135", "SE-149")
async def test_a_scripted_run_and_its_counters(tmp_path: Path) -> None:
    """Fed twice, trained past the trigger, applied by id: each counter says just what happened."""
    async with running(config_in(tmp_path)) as inside:
        daemon = inside.daemon
        before = await daemon.stats()
        assert (before.records_received, before.trainings_completed, before.last_train_at) == (
            0,
            0,
            None,
        )
        events = [event for number in range(3) for event in attempt(number)]
        taken = await daemon.send(events)
        assert (taken.stored, taken.duplicates) == (6, 0)
        assert (await daemon.send(events)).duplicates == 6
        assert len((await daemon.send([b"no event"])).rejected) == 1
        await inside.episodes(3)

        result = await daemon.process_now()
        assert result.mode is ProcessorMode.FULL
        assert (result.trained_model, result.errors) == ("airline@1", ())
        assert result.skipped == OFFLINE_IS_MISSING
        assert inside.serving.served is None  # `apply.mode` is manual
        applied = await daemon.apply_model("airline@1")
        assert (applied.model_id, inside.serving.served) == ("airline@1", "airline@1")
        with pytest.raises(NotFoundError):
            await daemon.apply_model("airline@9")

        inside.training.fault = TrainingError("out of memory")
        failed = await daemon.process_now()
        assert failed.errors == ("TrainingError: out of memory",)
        assert failed.trained_model is None
        stats = await daemon.stats()
        assert (stats.records_received, stats.episodes_created) == (6, 3)
        assert (stats.trainings_completed, stats.trainings_failed) == (1, 1)
        assert (stats.models_applied, stats.duplicates, stats.rejected) == (1, 6, 1)
        assert stats.last_train_at is not None
        assert stats.started_at <= stats.last_train_at <= datetime.now(UTC)
        assert (stats.training, stats.queue_depth, stats.lagged, stats.trainings_skipped) == (
            None,
            0,
            0,
            0,
        )


@pytest.mark.feature("SE-128", "SE-133")
async def test_every_part_can_be_replaced_by_keyword(tmp_path: Path) -> None:
    """Store and learn model too; a store of the caller's stays open."""
    async with open_store("sqlite://") as store:
        model = create("worker_task")
        async with running(config_in(tmp_path), store=store, learn_model=model) as inside:
            task = {"type": "action", "task_id": "t1", "worker_id": 1, "tick": 1}
            told = {"action": "look", "scenario": "airline", "result": {"success": True}}
            await inside.daemon.send([task | told, task | told | {"action": "done"}])
            await inside.episodes(1)
        [episode] = await _all(store)
        assert episode.learn_model == "worker_task"


async def _all(store: SqlStore) -> list[Any]:
    from honed.ports import EpisodeFilter

    return await store.list_episodes(EpisodeFilter())


@pytest.mark.feature("SE-128", "SE-133")
async def test_in_memory_nothing_of_the_store_is_written(tmp_path: Path) -> None:
    """`database = "sqlite://"` works whole and leaves no database behind."""
    async with running(config_in(tmp_path)) as inside:
        await inside.daemon.send(attempt(1))
        await inside.episodes(1)
    assert list(tmp_path.glob("*.db*")) == []


@pytest.mark.feature("SE-128", "SE-133")
def test_a_daemon_without_a_scenario_is_refused() -> None:
    """There is no default kind of work."""
    with pytest.raises(pydantic.ValidationError, match="scenario"):
        Config()  # type: ignore[call-arg]


@pytest.mark.feature("SE-146", "SE-150")
@pytest.mark.parametrize("mode", ["lora", "full", "Both"])
def test_a_missing_part_is_an_error_at_start_and_no_failed_training(
    tmp_path: Path, mode: str
) -> None:
    """What trains needs a base model; the error says what to set, before anything is opened."""
    with pytest.raises(ConfigError, match="base_model is not set") as caught:
        LearningDaemon(config_in(tmp_path, base_model=None, processor_mode=mode))
    assert "offline" in str(caught.value.advice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.feature("SE-146", "SE-147")
@pytest.mark.parametrize("changed", [{"base_model": None}, {"processor_mode": "OFFLINE_only"}])
async def test_offline_needs_no_trainer_and_says_that_it_does_nothing_yet(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """Without a base model, or told so: events are kept, nothing trains, and a run says why it was skipped."""
    async with running(config_in(tmp_path, trigger="always()", **changed)) as inside:
        await inside.daemon.send(attempt(1))
        await inside.episodes(1)
        result = await inside.daemon.process_now()
        assert (result.mode, result.trained_model) == (ProcessorMode.OFFLINE, None)
        assert result.skipped == f"processor_mode is offline, and {OFFLINE_IS_MISSING}"
        assert inside.training.requests == []
        stats = await inside.daemon.stats()
        assert (stats.trainings_skipped, stats.last_train_at) == (1, None)


@pytest.mark.feature("SE-138")
async def test_a_second_training_is_refused_and_so_is_a_second_daemon(tmp_path: Path) -> None:
    """One run and one daemon at a time; the first ones go on."""
    config = config_in(tmp_path)
    async with running(config) as inside:
        await inside.daemon.send(attempt(1))
        await inside.episodes(1)
        inside.training.may_end = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(inside.daemon.process_now)
            await inside.training.started.wait()
            assert (await inside.daemon.stats()).training is not None
            with pytest.raises(BusyError):
                await inside.daemon.process_now()
            with pytest.raises(ConfigError, match="another daemon runs"):
                await Inside(config).daemon.run()
            inside.training.may_end.set()
        assert (await inside.daemon.stats()).trainings_completed == 1


@pytest.mark.feature("SE-136")
@pytest.mark.parametrize(
    "fault",
    [
        TrainingError("no memory"),
        ProcessFailedError("killed", exit_code=-9),
        ValueError("a fault of ours"),
    ],
)
async def test_errors_keep_their_kind_and_end_nothing(tmp_path: Path, fault: Exception) -> None:
    """A run that fails, by an error of honed's or another, is told by its kind; the next one is done."""
    async with running(config_in(tmp_path)) as inside:
        await inside.daemon.send(attempt(1))
        await inside.episodes(1)
        inside.training.fault = fault  # type: ignore[assignment]
        [told] = (await inside.daemon.process_now()).errors
        assert told.startswith(f"{type(fault).__name__}: {fault}")
        inside.training.fault = None
        assert (await inside.daemon.process_now()).errors == ()


@pytest.mark.feature("SE-130")
async def test_any_thread_may_ask_it_to_stop_and_nobody_waits_for_that(tmp_path: Path) -> None:
    """What was sent is committed by then; asking again, or before the start, is fine."""
    url = f"sqlite:///{tmp_path}/honed.db"
    inside = Inside(config_in(tmp_path, database=url))
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await inside.daemon.run(ready=ready.set)

        tasks.start_soon(run)
        await ready.wait()
        await inside.daemon.send(attempt(1))
        asking = threading.Thread(target=inside.daemon.request_stop)
        asking.start()
        asking.join()
        await inside.daemon.close()
    inside.daemon.request_stop()
    async with open_store(url) as store:
        assert (await store.stats()).num_records == 2
    early = Inside(config_in(tmp_path / "early"))
    early.daemon.request_stop()
    with anyio.fail_after(60):
        await early.daemon.run()
