"""When a run starts, how it ends, and what is remembered of it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from honed.domain.job import TrainSettings
from honed.domain.run import Run
from honed.domain.times import now_ms
from honed.errors import (
    BusyError,
    ControlError,
    ParityError,
    ProcessFailedError,
    StoreError,
    TriggerError,
)
from honed.loop import InService, TrainingRuns, TriggerLoop, trigger_loop
from honed.ports import TrainingSets
from honed.stores import SqlStore
from honed.triggers import parse
from tests.feed_parts import action, incoming
from tests.unit.loop.conftest import SCENARIO, Always, Serving, Sets, Training, episode

pytestmark = pytest.mark.anyio


class Parts:
    """A loop and what it works with."""

    def __init__(
        self,
        store: SqlStore,
        folder: Path,
        *,
        trigger: str = "count(3)",
        decision: str = "pass",
        sets: TrainingSets | None = None,
        settings: TrainSettings = TrainSettings(),  # noqa: B008  (frozen)
    ) -> None:
        self.store = store
        self.serving = Serving()
        self.training = Training()
        self.events: list[tuple[str, dict[str, Any]]] = []
        announce = lambda type, details: self.events.append((type, details))  # noqa: E731
        self.in_service = InService(
            store, self.serving, scenario=SCENARIO, max_history=5, auto=True, announce=announce
        )
        self.base_fault: ParityError | None = None
        runs = TrainingRuns(
            store,
            sets or Sets(store),
            self.training,
            Always(decision),
            self.in_service,
            scenario=SCENARIO,
            learn_model="chat",
            base_model="org/tiny",
            settings=settings,
            runs_dir=folder / "runs",
            first_backoff_s=60,
            announce=announce,
            check_base=self._check_base,
        )
        self.loop = TriggerLoop(
            store,
            runs,
            parse(trigger),
            scenario=SCENARIO,
            learn_model="chat",
            check_interval=timedelta(milliseconds=20),
        )

    async def _check_base(self) -> Path:
        if self.base_fault is not None:
            raise self.base_fault
        return Path("/llama/base.facts.json")

    async def add(self, first: int, last: int) -> None:
        """Episodes `first` to `last`."""
        for number in range(first, last + 1):
            await self.store.add_episode(episode(number), [])
        self.loop.notify()

    async def runs(self) -> list[Run]:
        return await self.store.list_runs(SCENARIO)

    async def until(self, look: Callable[[], Awaitable[Any]]) -> Any:
        with anyio.fail_after(60):
            while not (found := await look()):
                await anyio.sleep(0.005)
        return found

    async def ended(self, count: int = 1) -> list[Run]:
        """The runs, once `count` of them have ended; newest first."""

        async def look() -> list[Run] | None:
            runs = await self.runs()
            done = len(runs) >= count and all(run.state != "running" for run in runs)
            return runs if done else None

        found: list[Run] = await self.until(look)
        return found


@asynccontextmanager
async def _loop(
    store: SqlStore,
    folder: Path,
    *,
    trigger: str = "count(3)",
    decision: str = "pass",
    settings: TrainSettings = TrainSettings(),  # noqa: B008  (frozen)
) -> AsyncIterator[Parts]:
    parts = Parts(store, folder, trigger=trigger, decision=decision, settings=settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(parts.loop.run)
        yield parts
        tasks.cancel_scope.cancel()


async def test_a_trigger_that_fires_trains_gates_and_serves(
    store: SqlStore, tmp_path: Path
) -> None:
    """One run, one model, in service; the trigger is quiet again."""
    async with _loop(store, tmp_path) as parts:
        await parts.add(1, 3)
        (run,) = await parts.ended()
    assert (run.state, run.model_id, run.reason, run.num_episodes) == (
        "done",
        "airline@1",
        "count(3)",
        3,
    )
    assert parts.serving.served == "airline@1"
    state = await store.start_scenario(SCENARIO, "chat", now_ms=1)
    assert state.last_train_count == 3
    types = [type for type, _ in parts.events]
    for expected in (
        "training.started",
        "training.progress",
        "gate.decided",
        "model.applied",
        "training.done",
    ):
        assert expected in types
    progress = (tmp_path / "runs" / run.id / "progress.jsonl").read_text()
    assert '"step":1' in progress


@pytest.mark.parametrize("start_from", ["base", "adapter"])
async def test_a_run_starts_where_the_settings_say(
    store: SqlStore, tmp_path: Path, start_from: Any
) -> None:
    """Each adapter begins with the base, or goes on from the one in service; its run has a method."""
    settings = TrainSettings(start_from=start_from)
    async with _loop(store, tmp_path, settings=settings) as parts:
        await parts.add(1, 3)
        await parts.ended()
        await parts.add(4, 6)
        runs = await parts.ended(2)
    serving = (await store.get_model("airline@1")).adapter_path
    starts = [request.start_path for request in parts.training.requests]
    assert starts == [None, serving if start_from == "adapter" else None]
    assert [run.method for run in runs] == ["sft", "sft"]


@pytest.mark.feature("SE-138")
async def test_one_training_at_a_time(store: SqlStore, tmp_path: Path) -> None:
    """Neither the trigger nor a person starts a second run; what came meanwhile counts as new."""
    async with _loop(store, tmp_path) as parts:
        parts.training.may_end = anyio.Event()
        await parts.add(1, 3)
        await parts.training.started.wait()
        await parts.add(4, 6)
        with pytest.raises(BusyError, match="in progress"):
            parts.loop.train_now()
        assert len(await parts.runs()) == 1
        parts.training.may_end.set()
        runs = await parts.ended(2)
    assert [run.num_episodes for run in runs] == [6, 3]
    assert parts.serving.served == "airline@2"


async def test_a_failed_run_backs_off_and_keeps_its_episodes(
    store: SqlStore, tmp_path: Path
) -> None:
    """The reason is kept; nothing new starts until the back-off is over, but a person may."""
    async with _loop(store, tmp_path) as parts:
        parts.training.fault = ProcessFailedError("the worker was ended by SIGKILL", exit_code=-1)
        await parts.add(1, 3)
        (run,) = await parts.ended()
        assert run.state == "failed"
        assert "SIGKILL" in (run.message or "")
        state = await parts.loop.state()
        assert (state.last_train_count, state.backoff_s) == (0, 60)
        await parts.add(4, 4)
        parts.training.fault = None
        parts.loop.train_now()
        runs = await parts.ended(2)
        assert (await parts.loop.state()).backoff_until_ms is None
    assert [run.state for run in runs] == ["done", "failed"]


async def test_a_clock_that_was_set_back_does_not_lengthen_the_back_off(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More left to wait than the back-off is long: the next run starts instead of an hour later."""
    async with _loop(store, tmp_path) as parts:
        parts.training.fault = ProcessFailedError("the worker was ended by SIGKILL", exit_code=-1)
        await parts.add(1, 3)
        await parts.ended()
        parts.training.fault = None
        before = trigger_loop.now_ms() - 3_600_000
        monkeypatch.setattr(trigger_loop, "now_ms", lambda: before)
        await parts.add(4, 4)
        runs = await parts.ended(2)
    assert sorted(run.state for run in runs) == ["done", "failed"]


async def test_nothing_trains_while_something_is_forgotten(store: SqlStore, tmp_path: Path) -> None:
    """The run starts as soon as it is over; during a run nothing may be forgotten."""
    async with _loop(store, tmp_path) as parts:
        parts.training.may_end = anyio.Event()
        with parts.loop.at_rest():
            await parts.add(1, 3)
            await parts.loop.beat()
            await parts.loop.beat()
            assert await parts.runs() == []
        await parts.until(parts.runs)
        with pytest.raises(ControlError, match="in progress"), parts.loop.at_rest():
            pass
        parts.training.may_end.set()
        await parts.ended()


async def test_a_run_without_data_is_skipped_with_its_reason(
    store: SqlStore, tmp_path: Path
) -> None:
    """Nothing is published and nothing backs off."""
    async with _loop(store, tmp_path) as parts:
        parts.loop.train_now()
        (run,) = await parts.ended()
    assert (run.state, run.model_id) == ("skipped", None)
    assert "no episodes" in (run.message or "")


async def test_a_refused_candidate_is_kept_but_not_served(store: SqlStore, tmp_path: Path) -> None:
    """The verdict is stored with the model."""
    async with _loop(store, tmp_path, decision="fail") as parts:
        await parts.add(1, 3)
        (run,) = await parts.ended()
    assert run.state == "done"
    assert parts.serving.served is None
    verdict = (await store.get_model("airline@1")).gate
    assert verdict is not None
    assert verdict.decision == "fail"


@pytest.mark.feature("SE-102")
async def test_a_blind_control_is_judged_against_the_base_and_counts_for_nothing(
    store: SqlStore, tmp_path: Path
) -> None:
    """The trigger still sees its episodes as unlearned."""
    async with _loop(store, tmp_path, trigger="manual()", decision="fail") as parts:
        await parts.add(1, 3)
        parts.loop.train_now(selection="blind", against_base=True)
        (run,) = await parts.ended()
        assert (await parts.loop.state()).last_train_count == 0
    assert run.selection == "blind"
    assert parts.training.requests[0].selection == "blind"
    assert parts.training.requests[0].incumbent is None


async def test_a_cancelled_run_waits_for_the_next_new_episode(
    store: SqlStore, tmp_path: Path
) -> None:
    """Stopped by the operator: no back-off, no instant restart."""
    async with _loop(store, tmp_path) as parts:
        parts.training.may_end = anyio.Event()
        await parts.add(1, 3)
        await parts.training.started.wait()
        assert parts.loop.cancel() is not None
        (run,) = await parts.ended()
        assert run.state == "cancelled"
        await anyio.sleep(0.1)
        assert len(await parts.runs()) == 1
        parts.training.may_end.set()
        await parts.add(4, 4)
        await parts.ended(2)


async def test_a_run_found_unfinished_at_start_is_closed(store: SqlStore, tmp_path: Path) -> None:
    """A killed daemon leaves no run that seems to go on for ever."""
    await store.add_run(
        Run(
            id="old",
            scenario=SCENARIO,
            learn_model="chat",
            state="running",
            started_at_ms=1,
            reason="x",
        )
    )
    async with _loop(store, tmp_path) as parts:
        (run,) = await parts.ended()
        assert parts.training.discarded == ["old"]
    assert (run.state, run.message) == ("interrupted", "the daemon ended in the middle of it")


async def test_a_run_that_was_cut_off_ended_when_it_was_last_seen_at_work(
    store: SqlStore, tmp_path: Path
) -> None:
    """A budget does not pay for the days on which nobody was there."""
    old = Run(
        id="old",
        scenario=SCENARIO,
        learn_model="chat",
        state="running",
        started_at_ms=1_000,
        reason="x",
    )
    await store.add_run(old)
    await store.add_run(msgspec.structs.replace(old, id="older", started_at_ms=10))
    progress = tmp_path / "runs" / "old" / "progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.touch()
    os.utime(progress, (5, 5))
    async with _loop(store, tmp_path, trigger="never()") as parts:
        ended = await parts.ended(2)
    assert [(run.id, run.ended_at_ms) for run in ended] == [("old", 5_000), ("older", 10)]


async def test_another_rule_is_followed_from_the_next_look_on(
    store: SqlStore, tmp_path: Path
) -> None:
    """What waits under the old rule waits under the new one; a run in progress is left alone."""
    async with _loop(store, tmp_path, trigger="count(9)") as parts:
        await parts.add(1, 3)
        await parts.loop.beat()
        assert await parts.runs() == []
        parts.training.may_end = anyio.Event()
        parts.loop.follow(parse("count(3)"), check_interval=timedelta(hours=1))
        await parts.training.started.wait()
        parts.loop.follow(parse("count(1)"), check_interval=timedelta(hours=1))
        await parts.add(4, 4)
        assert len(await parts.runs()) == 1
        parts.training.may_end.set()
        runs = await parts.ended(2)
    assert [(run.reason, run.num_episodes) for run in runs] == [("count(1)", 4), ("count(3)", 3)]


async def test_silence_alone_starts_a_run(store: SqlStore, tmp_path: Path) -> None:
    """No further event wakes the loop: it looks at every interval."""
    async with _loop(store, tmp_path, trigger='quiet("0.3s") & count(2)') as parts:
        now = incoming(action(), received_ms=now_ms())
        await store.append([now])
        await parts.add(1, 2)
        await parts.loop.beat()
        await parts.loop.beat()
        assert await parts.runs() == []
        [run] = await parts.ended()
    assert run.started_at_ms - now.received_ms >= 300


@pytest.mark.feature("SE-104")
async def test_always_trains_once_for_what_is_new(store: SqlStore, tmp_path: Path) -> None:
    """Once per finished training: without anything new the next one waits, whatever the rule says."""
    async with _loop(store, tmp_path, trigger="always()") as parts:
        await parts.loop.beat()
        assert await parts.runs() == []
        await parts.add(1, 1)
        await parts.ended(1)
        await parts.loop.beat()
        await parts.loop.beat()
        assert len(await parts.runs()) == 1
        await parts.add(2, 2)
        await parts.ended(2)


@pytest.mark.feature("SE-096")
async def test_facts_that_cannot_be_read_are_logged_and_the_loop_goes_on(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails for a while costs no training, only time."""

    async def broken(*arguments: Any, **facts: Any) -> None:
        raise TriggerError("the facts of airline cannot be read: disk I/O error")

    async with _loop(store, tmp_path, trigger="count(3)") as parts:
        with monkeypatch.context() as disk, capture_logs() as lines:
            disk.setattr(store, "trigger_context", broken)
            await parts.add(1, 3)
            await parts.loop.beat()
            await parts.loop.beat()
            assert await parts.runs() == []
        [run] = await parts.ended()
    assert run.state == "done"
    told = [line for line in lines if line["event"] == "trigger.failed"]
    assert told
    assert "disk I/O error" in told[0]["error"]


@pytest.mark.feature("SE-102", "SE-103")
@pytest.mark.parametrize("rule", ["manual()", "never()"])
async def test_what_never_fires_trains_when_a_person_asks(
    store: SqlStore, tmp_path: Path, rule: str
) -> None:
    """However much waits."""
    async with _loop(store, tmp_path, trigger=rule) as parts:
        await parts.add(1, 3)
        await parts.loop.beat()
        await parts.loop.beat()
        assert await parts.runs() == []
        parts.loop.train_now()
        [run] = await parts.ended()
    assert (run.state, run.reason) == ("done", "train-now")


async def test_rules_see_how_runs_end(store: SqlStore, tmp_path: Path) -> None:
    """Failures count up to the next run that is done; runs that had no data trained nothing."""
    needs = parse('budget(runs=9, per="1d")').needs

    async def facts() -> tuple[int, int, bool]:
        found = await store.trigger_context(SCENARIO, "chat", now_ms=now_ms(), needs=needs)
        return found.failures, len(found.runs), found.last_run_at is not None

    async with _loop(store, tmp_path, trigger="never()") as parts:
        parts.loop.train_now()
        await parts.ended(1)
        assert await facts() == (0, 0, False)
        await parts.add(1, 3)
        parts.training.fault = ProcessFailedError("the worker was ended by SIGKILL", exit_code=-1)
        for failed in (1, 2):
            parts.loop.train_now()
            await parts.ended(1 + failed)
            assert await facts() == (failed, failed, True)
        parts.training.fault = None
        parts.loop.train_now()
        await parts.ended(4)
        assert await facts() == (0, 3, True)


async def test_an_interrupted_run_is_made_up_for(store: SqlStore, tmp_path: Path) -> None:
    """What it was to learn from still waits: the trigger fires again, without a back-off."""
    async with _loop(store, tmp_path, trigger="never()") as parts:
        await parts.add(1, 3)
    await store.add_run(
        Run(
            id="old",
            scenario=SCENARIO,
            learn_model="chat",
            state="running",
            started_at_ms=1,
            reason="x",
        )
    )
    async with _loop(store, tmp_path) as parts:
        new, old = await parts.ended(2)
    assert (new.state, old.state) == ("done", "interrupted")


async def test_stopping_the_loop_writes_down_the_cancelled_run(
    store: SqlStore, tmp_path: Path
) -> None:
    """SIGTERM in mid-training leaves a row that says so."""
    async with _loop(store, tmp_path) as parts:
        parts.training.may_end = anyio.Event()
        await parts.add(1, 3)
        await parts.training.started.wait()
    (run,) = await store.list_runs(SCENARIO)
    assert run.state == "cancelled"


async def test_a_full_disk_holds_runs_off_and_the_loop_goes_on(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that cannot even be written down ends neither the loop nor the daemon."""
    monkeypatch.setattr(trigger_loop, "_STORE_BACKOFF_S", 0.05)
    tried = anyio.Event()

    async def full(run: Run) -> None:
        tried.set()
        raise StoreError("database or disk is full")

    async with _loop(store, tmp_path) as parts:
        with monkeypatch.context() as disk:
            disk.setattr(store, "add_run", full)
            await parts.add(1, 3)
            with anyio.fail_after(60):
                await tried.wait()
        (run,) = await parts.ended()
    assert run.state == "done"


async def test_nothing_is_trained_for_a_base_that_is_not_served(
    store: SqlStore, tmp_path: Path
) -> None:
    """Neither by the trigger nor by hand; the episodes wait until the problem is gone."""
    async with _loop(store, tmp_path, trigger="count(2)") as parts:
        parts.in_service.base_problem = "served is another tokenizer"
        await parts.add(1, 3)
        await parts.loop.beat()
        with pytest.raises(ControlError, match="nothing is trained: served is another tokenizer"):
            parts.loop.train_now()
        assert await parts.runs() == []
        parts.in_service.base_problem = None
        assert [run.state for run in await parts.ended()] == ["done"]
        assert parts.training.requests[0].base_facts_path == Path("/llama/base.facts.json")


async def test_base_that_was_changed_fails_the_run_before_it_trains(
    store: SqlStore, tmp_path: Path
) -> None:
    """It is looked at right before each run; the run says what it found."""
    async with _loop(store, tmp_path, trigger="manual()") as parts:
        parts.base_fault = ParityError("the base model was changed since this process started")
        await parts.add(1, 3)
        parts.loop.train_now()
        [run] = await parts.ended()
        assert (run.state, parts.training.requests) == ("failed", [])
        assert "was changed since this process started" in (run.message or "")
