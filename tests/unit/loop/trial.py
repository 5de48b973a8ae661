"""What canaries need of a daemon and a gateway, in one process: a watch, a store, a lane that does as it is told."""

import time
from typing import Any

from msgspec.structs import replace

from honed.config import CanarySection
from honed.domain.canary import Canary
from honed.domain.serving import CandidateStatus, LaneStatus
from honed.domain.times import now_ms
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError
from honed.loop import CanaryWatch, InService
from honed.ports import Closing
from honed.rewards import alarms
from honed.stores import SqlStore
from tests.feed_parts import CHAT, call, failure, incoming, success
from tests.unit.loop.conftest import SCENARIO, Serving, gate, model

DAY_S = 86_400.0
LIVE, TRIED, NEXT = "airline@1", "airline@2", "airline@3"


class Lane(Serving):
    """An applier that has two versions answer, as the gateway does."""

    def __init__(self) -> None:
        super().__init__()
        self.candidate: CandidateStatus | None = None
        self.requests = self.failed = 0
        self.num_tried = 0
        """How often a version was given its share."""

    async def lane(self) -> LaneStatus:
        self._see()
        return LaneStatus(
            state="active",
            model_id=self.served,
            is_serving=True,
            address=None,
            in_flight=0,
            requests=self.requests,
            failed=self.failed,
            captured={},
            candidate=self.candidate,
        )

    async def canary(self, model: TrainedModel, *, share: float, is_shadow: bool) -> None:
        self._see()
        if self.served == model.id:
            raise ApplyError(f"{model.id} is live already")
        self.num_tried += 1
        self.answered(model.id, share=share, is_shadow=is_shadow)

    async def promote(self, model: TrainedModel) -> None:
        self._see()
        if self.candidate is None:
            assert self.served == model.id, "as the gateway: what is live already is nothing"
            return
        assert self.candidate.model_id == model.id
        self.served, self.candidate = model.id, None

    async def withdraw(self, model: TrainedModel) -> None:
        self._see()
        if self.candidate is not None and self.candidate.model_id == model.id:
            self.candidate = None

    def answered(self, model_id: str, **told: Any) -> None:
        """The candidate has answered so much."""
        known: dict[str, Any] = {
            "share": 0.1,
            "is_shadow": False,
            "state": "active",
            "in_flight": 0,
            "requests": 0,
            "failed": 0,
        }
        self.candidate = CandidateStatus(model_id=model_id, **(known | told))

    def _see(self) -> None:
        if self.fault is not None:
            raise self.fault


class Trial:
    """A watch with all that it needs; `begun` anew it is what a restart leaves."""

    def __init__(self, store: SqlStore) -> None:
        self.store, self.lane = store, Lane()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.begin()

    def begin(self, *, share: float = 0.1, is_shadow: bool = False, max_tasks: int = 1_000) -> None:
        self.clock_s = 0.0  # that of a process
        self.service = InService(
            self.store,
            self.lane,
            scenario=SCENARIO,
            max_history=5,
            auto=True,
            announce=lambda *_: None,
        )
        self.watch = CanaryWatch(
            self.store,
            self.service,
            self.lane,
            scenario=SCENARIO,
            section=CanarySection(share=share, shadow=is_shadow, max_tasks=max_tasks),
            clock=lambda: self.clock_s,
            announce=lambda event, details: self.told.append((event, details)),
            suspect=alarms,
        )

    async def add(self, model_id: str, incumbent: str | None = LIVE) -> TrainedModel:
        """A model that the gate has passed."""
        added = model(model_id, gate=gate("pass", incumbent), created_at_ms=now_ms() + 60_000)
        await self.store.add_model(added)
        return added

    async def offer(self, model_id: str) -> Any:
        return await self.service.offer(await self.add(model_id))

    async def now(self) -> Canary:
        canary = await self.store.canaries.now(SCENARIO)
        assert canary is not None
        return canary

    async def newest(self) -> Canary:
        return (await self.store.canaries.list(SCENARIO))[0]

    async def look(self, *, after_s: float = 0) -> None:
        """One look, so much later."""
        self.clock_s += after_s
        await self.watch.look()

    async def work(
        self,
        adapter: str | None,
        num: int,
        *,
        done: int,
        chars: int = 400,
        tools: int = 2,
        untold: int = 0,
        score: float = 1.0,
    ) -> list[str]:
        """So many tasks with an outcome, and `untold` without; those that were `done` with this score. Their names."""
        calls = [
            {"id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in range(tools)
        ]
        said = {"role": "assistant", "content": "x" * chars, "tool_calls": calls or None}
        events = []
        tasks = [f"{adapter}-{time.time_ns()}-{number}" for number in range(num + untold)]
        for number, task in enumerate(tasks):
            told = {"task_id": task, "adapter_id": adapter, "latency_ms": 900 + number}
            events.append(call(response_message=said, **told))
            if number < num:
                is_done = number < done
                events.append(success(score, task_id=task) if is_done else failure(task_id=task))
        await self.store.append([incoming(event) for event in events])
        await _close(self.store)
        return tasks

    async def said(self, tasks: list[str], outcome: str) -> None:
        """Somebody says now how these tasks have ended."""
        verdict = {"success": success, "failure": failure}[outcome]
        await self.store.append([incoming(verdict(task_id=task)) for task in tasks])


async def _close(store: SqlStore) -> None:
    """Close all open groups, in one transaction."""
    at_ms, closings = now_ms() + 1, []
    groups = await store.open_groups(
        settled_before_ms=at_ms, idle_before_ms=at_ms, now_ms=at_ms, limit=1_000
    )
    records = await store.group_records([group.id for group in groups])
    for group in groups:
        made = CHAT.build_episodes(records[group.id], now_ms=at_ms, final=True)
        episodes = tuple(
            replace(each, metadata=replace(each.metadata, scenario=SCENARIO)) for each in made
        )
        closings.append(Closing(group.id, episodes, len(records[group.id])))
    assert await store.close_groups(closings)
