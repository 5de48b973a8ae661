"""A real store in a real file, and parts of the loop that are quick: an applier and a processor without processes."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.job import EpisodeScore, Progress
from honed.domain.outcome import Failure, Success
from honed.domain.trained_model import GateResult, Selection, TrainedModel
from honed.domain.verdict import Seen
from honed.errors import EmptyDataError, TrainingError
from honed.loop.in_service import AppliedNow
from honed.ports import HeldOut, OnProgress, Trained, TrainingSet, TrainRequest
from honed.stores import SqlStore, open_store

if TYPE_CHECKING:
    from tests.unit.loop.trial import Trial

SCENARIO = "airline"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(f"sqlite:///{tmp_path}/honed.db") as opened:
        await opened.start_scenario(SCENARIO, "chat", now_ms=1)
        yield opened


class Serving:
    """An applier that remembers what it was told to serve."""

    def __init__(self) -> None:
        self.served: str | None = None
        self.fault: Exception | None = None

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        if self.fault is not None:
            raise self.fault
        self.served = model.id if model else None

    async def current(self) -> str | None:
        if self.fault is not None:
            raise self.fault
        return self.served


class Sets:
    """Training sets of as many rows as there are episodes."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def build(self, folder: Path, *, selection: Selection = "successes") -> TrainingSet:
        state = await self._store.start_scenario(SCENARIO, "chat", now_ms=1)
        folder.mkdir(parents=True)
        if not state.episode_count:
            raise EmptyDataError("no episodes: nothing has been closed yet")
        return TrainingSet(
            data_path=folder / "chat.jsonl",
            held_out_path=folder / "held_out.jsonl",
            episode_ids=("e",) * state.episode_count,
            held_out=(HeldOut(episode_id="e", group="g", is_success=True),),
            data_digest="d",
            num_rows=state.episode_count,
            episode_count=state.episode_count,
            left_out={},
            seen=Seen(newest=(await self._store.lessons.material(SCENARIO, "chat", limit=0)).reach),
        )


class Training:
    """A processor that ends when it is told to."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.may_end = anyio.Event()
        self.may_end.set()
        self.fault: TrainingError | None = None
        self.requests: list[TrainRequest] = []
        self.discarded: list[str] = []

    async def discard(self, run_id: str, *, registered: Collection[str]) -> None:
        self.discarded.append(run_id)

    async def train(self, request: TrainRequest, *, on_progress: OnProgress) -> Trained:
        self.requests.append(request)
        on_progress(Progress(phase="training", step=1, total_steps=2, loss=1.0))
        self.started.set()
        await self.may_end.wait()
        if self.fault is not None:
            raise self.fault
        score = EpisodeScore(num_tokens=1, candidate=0.0, incumbent=-1.0)
        read = request.training_set
        trained = model(
            request.model_id,
            selection=request.selection,
            run_id=request.run_id,
            episode_ids=read.episode_ids,
            seen=read.seen,
        )
        return Trained(trained, (score,) * len(read.held_out))


class Always:
    """A gate with one answer."""

    def __init__(self, decision: str = "pass") -> None:
        self.decision = decision

    def judge(
        self, held_out: Any, scores: Any, *, incumbent_id: str | None, now_ms: int, **asked: Any
    ) -> GateResult:
        return gate(self.decision, incumbent_id)


def gate(decision: str, incumbent_id: str | None) -> GateResult:
    return GateResult(
        decision=decision,  # type: ignore[arg-type]
        proof="outcome",
        incumbent_id=incumbent_id,
        reason="as told",
        num_successes=1,
        num_failures=1,
    )


def model(model_id: str, **fields: Any) -> TrainedModel:
    defaults: dict[str, Any] = {
        "scenario": SCENARIO,
        "run_id": "r",
        "base_model": "base",
        "learn_model": "chat",
        "method": "sft",
        "adapter_path": f"/adapters/{model_id}",
        "gguf_path": None,
        "digest": "d",
        "data_digest": "d",
        "episode_ids": (),
        "sample_count": 1,
        "created_at_ms": 1,
    }
    return TrainedModel(id=model_id, **(defaults | fields))


def episode(number: int, *, success: bool = True) -> Episode:
    return Episode(
        id=f"{number:013d}-00000000",
        learn_model="chat",
        records=(),
        metadata=EpisodeMetadata(created_at_ms=number, scenario=SCENARIO),
        task_id=f"t{number}",
        outcome=Success() if success else Failure("no"),
    )


@pytest.fixture
async def trial(store: SqlStore) -> "Trial":
    """One version is in service."""
    from tests.unit.loop.trial import LIVE, Trial

    made = Trial(store)
    made.begin(share=0)
    assert await made.service.offer(await made.add(LIVE, None)) == AppliedNow(LIVE, None)
    made.begin()
    return made
