"""Which adapter serves: forward with a verdict, back by hand, never unproved."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.domain.trained_model import TrainedModel
from honed.errors import (
    ApplyError,
    BaseMismatchError,
    ForeignAdapterError,
    NoPreviousModelError,
    NotFoundError,
)
from honed.loop import InService, in_service
from honed.loop.in_service import AppliedNow, Skipped
from honed.stores import SqlStore, open_store
from tests.unit.loop.conftest import SCENARIO, Serving, gate, model

pytestmark = pytest.mark.anyio


def _in_service(store: SqlStore, serving: Serving, *, auto: bool = True) -> InService:
    return InService(
        store, serving, scenario=SCENARIO, max_history=5, auto=auto, announce=lambda *_: None
    )


async def _added(store: SqlStore, number: int, decision: str, incumbent: str | None) -> Any:
    added = model(f"airline@{number}", gate=gate(decision, incumbent))
    await store.add_model(added)
    return added


@pytest.mark.feature("SE-151", "SE-154")
async def test_a_passed_model_goes_live_by_itself_in_auto_mode(store: SqlStore) -> None:
    """And it is written into the history after the server serves it."""
    serving = Serving()
    offered = await _in_service(store, serving).offer(await _added(store, 1, "pass", None))
    assert offered == AppliedNow("airline@1", None)
    assert serving.served == "airline@1"
    assert [entry.model_id for entry in await store.history(SCENARIO)] == ["airline@1"]


@pytest.mark.parametrize("decision", ["fail", "not_enough_evidence"])
@pytest.mark.feature("SE-151")
async def test_what_the_gate_has_not_passed_is_not_served(store: SqlStore, decision: str) -> None:
    """Neither by itself nor by `honed apply` without force."""
    serving = Serving()
    service = _in_service(store, serving)
    candidate = await _added(store, 1, decision, None)
    assert isinstance(await service.offer(candidate), Skipped)
    assert isinstance(await service.apply("airline@1"), Skipped)
    assert serving.served is None
    assert await service.apply("airline@1", force=True) == AppliedNow("airline@1", None)


@pytest.mark.feature("SE-151", "SE-154", "SE-155")
async def test_manual_mode_announces_and_waits(store: SqlStore) -> None:
    """The operator's word is needed; it counts whatever the mode."""
    serving, announced = Serving(), []
    service = InService(
        store,
        serving,
        scenario=SCENARIO,
        max_history=5,
        auto=False,
        announce=lambda type, details: announced.append((type, details["model_id"])),
    )
    offered = await service.offer(await _added(store, 1, "pass", None))
    assert isinstance(offered, Skipped)
    assert "honed apply airline@1" in offered.reason
    assert serving.served is None
    assert await service.apply("airline@1") == AppliedNow("airline@1", None)
    assert serving.served == "airline@1"
    assert announced == [("model.ready", "airline@1"), ("model.applied", "airline@1")]


@pytest.mark.feature("SE-152", "SE-153", "SE-155")
async def test_five_adapters_can_be_gone_back_to_also_after_a_restart(
    store: SqlStore, tmp_path: Path
) -> None:
    """The oldest falls out; before the oldest that is left there is the base."""
    serving = Serving()
    for number in range(1, 8):
        former = f"airline@{number - 1}" if number > 1 else None
        offered = await _in_service(store, serving).offer(
            await _added(store, number, "pass", former)
        )
        assert offered == AppliedNow(f"airline@{number}", former)
    async with open_store(f"sqlite:///{tmp_path}/honed.db") as reopened:  # as another process does
        assert [int(entry.model_id[-1]) for entry in await reopened.history(SCENARIO)] == [
            *(3, 4, 5, 6, 7)
        ]
        service = _in_service(reopened, serving)
        went = [await service.rollback() for _ in range(5)]
        assert went == ["airline@6", "airline@5", "airline@4", "airline@3", None]
        with pytest.raises(NoPreviousModelError):
            await service.rollback()


async def test_a_blind_control_never_goes_live_by_itself(store: SqlStore) -> None:
    """Even if the gate should pass it."""
    serving = Serving()
    control = model("airline@1", gate=gate("pass", None), selection="blind")
    await store.add_model(control)
    assert isinstance(await _in_service(store, serving).offer(control), Skipped)
    assert serving.served is None


async def test_a_verdict_against_another_incumbent_does_not_allow_the_swap(store: SqlStore) -> None:
    """Two candidates measured against the base: the second one would undo the first unproved."""
    serving = Serving()
    service = _in_service(store, serving)
    first, second = await _added(store, 1, "pass", None), await _added(store, 2, "pass", None)
    await service.offer(first)
    refused = await service.offer(second)
    assert isinstance(refused, Skipped)
    assert "measured against the base model, but airline@1 is in service" in refused.reason
    assert serving.served == "airline@1"


async def test_a_server_that_fails_leaves_the_history_as_it_was(store: SqlStore) -> None:
    """The former adapter serves on, and is still the current one."""
    serving = Serving()
    service = _in_service(store, serving)
    await service.offer(await _added(store, 1, "pass", None))
    await _added(store, 2, "pass", "airline@1")
    serving.fault = ApplyError("the probe saw the old adapter")
    with pytest.raises(ApplyError):
        await service.apply("airline@2")
    assert [entry.model_id for entry in await store.history(SCENARIO)] == ["airline@1"]


@pytest.mark.feature("SE-151", "SE-155")
async def test_applying_what_serves_already_is_nothing(store: SqlStore) -> None:
    """Everything that can be done twice is safe to do twice."""
    service = _in_service(store, Serving())
    await service.offer(await _added(store, 1, "pass", None))
    assert await service.apply("airline@1") == Skipped("airline@1", "it is in service already")
    with pytest.raises(NotFoundError):
        await service.apply("airline@9")


async def test_a_gateway_that_forgot_is_told_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next look, and at once by `honed apply`; meanwhile status says why."""
    monkeypatch.setattr(in_service, "_FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(in_service, "_LOOK_S", 0.01)
    serving = Serving()
    service = _in_service(store, serving)
    await service.offer(await _added(store, 1, "pass", None))
    serving.served = None
    await service.apply("airline@1")
    assert serving.served == "airline@1"
    serving.served, serving.fault = None, ApplyError("the gateway does not answer")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.follow)
        with anyio.fail_after(60):
            while service.problem is None:
                await anyio.sleep(0.005)
            assert service.problem == "the gateway does not answer"
            serving.fault = None
            while serving.served != "airline@1" or service.problem:
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()


class Unheard(Serving):
    """A gateway that dies after it has switched: it serves what was ordered when it is back, and nobody was told."""

    is_dying = False

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        await super().apply(model, previous=previous)
        if self.is_dying:
            self.is_dying = False
            raise ApplyError("the connection was lost")


async def test_an_order_that_was_not_answered_is_looked_after_at_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gateway has made of it unseen is put right, long before the next look."""
    monkeypatch.setattr(in_service, "_FIRST_LOOK_S", 3_600)
    monkeypatch.setattr(in_service, "_LOOK_S", 3_600)
    serving = Unheard()
    service = _in_service(store, serving)
    await _added(store, 1, "pass", None)
    await service.apply("airline@1")
    await _added(store, 2, "pass", "airline@1")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.follow)
        await anyio.wait_all_tasks_blocked()
        serving.is_dying = True
        with pytest.raises(ApplyError):
            await service.apply("airline@2")
        with anyio.fail_after(60):
            while serving.served != "airline@1":
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()


class Looked(Serving):
    """It notes that it was asked what it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = anyio.Event()

    async def current(self) -> str | None:
        self.is_asked.set()
        return await super().current()


async def test_a_gateway_that_goes_away_is_looked_for_soon(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long all had been well: it is asked again after the first wait, not after the longest."""
    monkeypatch.setattr(in_service, "_FIRST_LOOK_S", 0.01)
    monkeypatch.setattr(in_service, "_LOOK_S", 3_600)
    serving = Looked()
    service = _in_service(store, serving)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.follow)
        await serving.is_asked.wait()
        for fault, problem in ((ApplyError("it is away"), "it is away"), (None, None)):
            serving.fault = fault
            with anyio.fail_after(60):
                while service.problem != problem:
                    await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()


async def test_a_blind_control_needs_force(store: SqlStore) -> None:
    """A passed control is a false alarm of the gate, not a better adapter."""
    await store.add_model(model("airline@1", gate=gate("pass", None), selection="blind"))
    service = _in_service(store, Serving())
    refused = await service.apply("airline@1")
    assert isinstance(refused, Skipped)
    assert "control" in refused.reason
    assert isinstance(await service.apply("airline@1", force=True), AppliedNow)


@pytest.mark.feature("SE-153", "SE-156")
async def test_rollback_goes_back_one_adapter_and_then_to_the_base(store: SqlStore) -> None:
    """Before the first adapter there is the bare base; before that, nothing."""
    serving = Serving()
    service = _in_service(store, serving)
    await service.offer(await _added(store, 1, "pass", None))
    await service.offer(await _added(store, 2, "pass", "airline@1"))
    assert await service.rollback() == "airline@1"
    assert serving.served == "airline@1"
    assert await service.rollback() is None
    assert serving.served is None
    with pytest.raises(NoPreviousModelError):
        await service.rollback()


async def test_at_start_the_gateway_is_made_to_follow_the_history(store: SqlStore) -> None:
    """A daemon killed between the flip and the row serves the proved adapter again."""
    serving = Serving()
    await _in_service(store, serving).offer(await _added(store, 1, "pass", None))
    serving.served = "airline@7"
    await _in_service(store, serving).reconcile()
    assert serving.served == "airline@1"


class Particular(Serving):
    """An applier whose gateway serves another base model than some adapters were trained on."""

    def __init__(self, *foreign: str) -> None:
        super().__init__()
        self.foreign = foreign

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        if model is not None and model.id in self.foreign:
            raise ForeignAdapterError(f"{model.id} was trained on another base model")
        await super().apply(model, previous=previous)


async def test_rollback_passes_over_adapters_of_another_base(store: SqlStore) -> None:
    """The base model was changed after two adapters: there is a way out, and it says which it passed."""
    serving = Particular()
    service = _in_service(store, serving)
    for number, incumbent in ((1, None), (2, "airline@1"), (3, "airline@2")):
        await _added(store, number, "pass", incumbent)
        await service.apply(f"airline@{number}")
    serving.foreign = ("airline@2", "airline@3")
    with pytest.raises(ForeignAdapterError):
        await service.apply("airline@2", force=True)
    assert await service.rollback() == "airline@1"
    assert [entry.model_id for entry in await store.history(SCENARIO)] == ["airline@1"]
    serving.foreign = ("airline@1",)
    assert await service.rollback() is None
    assert serving.served is None


async def test_another_base_in_service_is_a_problem_of_the_base(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of a former base is not: the base that is served is then the one that is trained on."""
    monkeypatch.setattr(in_service, "_LOOK_S", 0.01)
    monkeypatch.setattr(in_service, "_FIRST_LOOK_S", 0.01)
    serving = Serving()
    service = _in_service(store, serving)

    async def until(base_problem: str | None, problem: str | None) -> None:
        with anyio.fail_after(60):
            while (service.base_problem, service.problem) != (base_problem, problem):
                await anyio.sleep(0.005)

    serving.fault = BaseMismatchError("served is another tokenizer")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.follow)
        await until("served is another tokenizer", "served is another tokenizer")
        serving.fault = ApplyError("no gateway listens")  # nothing new is known of the base
        await until("served is another tokenizer", "no gateway listens")
        serving.fault = ForeignAdapterError("airline@1 was trained on another base")
        await until(None, "airline@1 was trained on another base")
        serving.fault = None
        await until(None, None)
        tasks.cancel_scope.cancel()
