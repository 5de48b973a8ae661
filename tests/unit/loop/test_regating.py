"""A candidate without enough evidence waits, and is judged again when there is more."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from honed.domain.episode_score import EpisodeScore
from honed.domain.job import ScoreJob, TrainSettings
from honed.domain.trained_model import GateResult
from honed.errors import BusyError, TrainingError
from honed.gate import HeldOutGate
from honed.loop import InService, Regating, TrainingRuns, TriggerLoop
from honed.ports import HeldOut, TrainingSet
from honed.stores import SqlStore
from honed.triggers import parse
from tests.unit.loop.conftest import SCENARIO, Serving, Training, episode, model

pytestmark = pytest.mark.anyio

WAITING = GateResult(
    decision="not_enough_evidence",
    proof="outcome",
    incumbent_id=None,
    reason="may be chance",
    num_successes=10,
    num_failures=10,
    episode_count=20,
)


class HeldOutSets:
    """As many held-out episodes as there are episodes, half of them successes."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def build(self, folder: Path, *, look: Any = None) -> TrainingSet:
        assert look is not None, "what is only looked at must not be settled"
        state = await self._store.start_scenario(SCENARIO, "chat", now_ms=1)
        folder.mkdir(parents=True)
        (folder / "held_out.jsonl").write_text("{}\n" * state.episode_count)
        return TrainingSet(
            data_path=folder / "chat.jsonl",
            held_out_path=folder / "held_out.jsonl",
            episode_ids=(),
            held_out=tuple(
                HeldOut(episode_id=f"e{i}", group=f"g{i}", is_success=i % 2 == 0)
                for i in range(state.episode_count)
            ),
            data_digest="d",
            num_rows=1,
            episode_count=state.episode_count,
            left_out={},
        )


class Scoring(Training):
    """A processor whose candidate tells successes from failures."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[ScoreJob] = []

    async def score(self, job: ScoreJob, folder: Path) -> tuple[EpisodeScore, ...]:
        self.jobs.append(job)
        self.started.set()
        await self.may_end.wait()
        if self.fault is not None:
            raise self.fault
        rng = random.Random(1)
        return tuple(
            EpisodeScore(num_tokens=9, candidate=rng.gauss(0.3 - 0.6 * (i % 2), 0.2), incumbent=0)
            for i, _ in enumerate(Path(job.held_out_path).read_text().splitlines())
        )


class Parts:
    """A loop that never trains by itself."""

    def __init__(self, store: SqlStore, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.serving, self.scoring = Serving(), Scoring()
        self.events: list[tuple[str, dict[str, Any]]] = []
        announce = lambda type, details: self.events.append((type, details))  # noqa: E731
        self.in_service = service = InService(
            store, self.serving, scenario=SCENARIO, max_history=5, auto=True, announce=announce
        )
        sets: Any = HeldOutSets(store)
        given: Any = {
            "scenario": SCENARIO,
            "learn_model": "chat",
            "base_model": "base",
            "settings": TrainSettings(max_length=99),
            "runs_dir": folder / "runs",
            "announce": announce,
        }
        gate = HeldOutGate()
        again = Regating(store, sets, self.scoring, gate, service, **given)
        runs = TrainingRuns(
            store, sets, self.scoring, gate, service, **given, first_backoff_s=60, regating=again
        )
        self.loop = TriggerLoop(
            store,
            runs,
            parse("never()"),
            scenario=SCENARIO,
            learn_model="chat",
            check_interval=timedelta(seconds=60),
        )

    async def candidate(self, name: str, gate: GateResult | None, **fields: Any) -> None:
        """Register an adapter that lies in a folder."""
        (self.folder / name).mkdir()
        path = str(self.folder / name)
        await self.store.add_model(model(name, gate=gate, adapter_path=path, **fields))

    async def add(self, first: int, last: int) -> None:
        """Episodes `first` to `last`; the loop has looked at them when this returns."""
        for number in range(first, last + 1):
            await self.store.add_episode(episode(number), [])
        await self.loop.beat()

    async def verdict(self, name: str) -> GateResult | None:
        return (await self.store.get_model(name)).gate

    async def at_rest(self) -> None:
        with anyio.fail_after(60):
            while self.loop.running_id is not None:
                await anyio.sleep(0.005)


@pytest.fixture
def parts(store: SqlStore, tmp_path: Path) -> Parts:
    return Parts(store, tmp_path)


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(parts.loop.run)
        yield
        tasks.cancel_scope.cancel()


async def test_a_candidate_is_judged_again_when_there_is_a_quarter_more(parts: Parts) -> None:
    """At 24 episodes it still waits, at 25 it is scored, passes, and goes into service."""
    await parts.candidate("airline@1", WAITING)
    async with running(parts):
        await parts.add(1, 24)
        assert parts.scoring.jobs == []
        await parts.add(25, 25)
        await parts.at_rest()
    verdict = await parts.verdict("airline@1")
    assert verdict is not None
    assert (verdict.decision, verdict.num_successes, verdict.episode_count) == ("pass", 13, 25)
    assert parts.serving.served == "airline@1"
    assert [type for type, _ in parts.events][:2] == ["gate.decided", "model.applied"]
    (job,) = parts.scoring.jobs
    assert (job.candidate_path, job.incumbent_path) == (str(parts.folder / "airline@1"), None)
    assert (job.base_model, job.max_length) == ("base", 99)
    assert list((parts.folder / "runs").iterdir()) == []


async def test_it_is_measured_against_what_serves_now(parts: Parts) -> None:
    """The incumbent of the new verdict is the adapter that came into service meanwhile."""
    await parts.candidate("airline@1", replace(WAITING, decision="pass"), created_at_ms=1)
    await parts.candidate("airline@2", WAITING, created_at_ms=2)
    async with running(parts):
        await parts.in_service.apply("airline@1")
        await parts.add(1, 25)
        await parts.at_rest()
    verdict = await parts.verdict("airline@2")
    assert verdict is not None
    assert (verdict.decision, verdict.incumbent_id) == ("pass", "airline@1")
    (job,) = parts.scoring.jobs
    assert job.incumbent_path == str(parts.folder / "airline@1")
    assert parts.serving.served == "airline@2"


@pytest.mark.parametrize("decision", ["pass", "fail"])
async def test_a_newer_candidate_replaces_it(parts: Parts, decision: Any) -> None:
    """Whatever the newest was told, an older one no longer waits."""
    await parts.candidate("airline@1", WAITING, created_at_ms=1)
    await parts.candidate("airline@2", replace(WAITING, decision=decision), created_at_ms=2)
    async with running(parts):
        await parts.add(1, 40)
        await parts.at_rest()
    assert parts.scoring.jobs == []


async def test_a_candidate_that_serves_already_is_not_measured_against_itself(
    parts: Parts,
) -> None:
    """Somebody forced it into service; its verdict stays."""
    await parts.candidate("airline@1", WAITING)
    async with running(parts):
        await parts.in_service.apply("airline@1", force=True)
        await parts.add(1, 40)
        await parts.at_rest()
    assert parts.scoring.jobs == []
    assert await parts.verdict("airline@1") == WAITING


async def test_controls_and_adapters_of_another_base_do_not_wait(parts: Parts) -> None:
    """A control never goes live, and an adapter of another base cannot be scored on this one."""
    await parts.candidate("airline@1", WAITING, base_model="another", created_at_ms=1)
    await parts.candidate("airline@2", WAITING, selection="blind", created_at_ms=2)
    async with running(parts):
        await parts.add(1, 40)
        await parts.at_rest()
    assert parts.scoring.jobs == []


async def test_a_scorer_that_fails_leaves_it_waiting_for_more(parts: Parts) -> None:
    """The verdict stays as it was, and the next attempt comes with another quarter."""
    await parts.candidate("airline@1", WAITING)
    parts.scoring.fault = TrainingError("the worker ended with status 1")
    async with running(parts):
        await parts.add(1, 25)
        await parts.at_rest()
        assert await parts.verdict("airline@1") == WAITING
        await parts.add(26, 31)
        await parts.at_rest()
        assert len(parts.scoring.jobs) == 1
        parts.scoring.fault = None
        await parts.add(32, 32)
        await parts.at_rest()
    verdict = await parts.verdict("airline@1")
    assert verdict is not None
    assert verdict.passed


async def test_nothing_trains_meanwhile(parts: Parts) -> None:
    """Scoring takes the machine as a run does: one at a time, and it can be cancelled."""
    await parts.candidate("airline@1", WAITING)
    parts.scoring.may_end = anyio.Event()
    async with running(parts):
        await parts.add(1, 25)
        with anyio.fail_after(60):
            await parts.scoring.started.wait()
        with pytest.raises(BusyError, match="again-airline@1 is in progress"):
            parts.loop.train_now()
        assert parts.loop.cancel() == "again-airline@1"
        await parts.at_rest()
    assert await parts.verdict("airline@1") == WAITING
    assert list((parts.folder / "runs").iterdir()) == []
