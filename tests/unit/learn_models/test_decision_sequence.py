"""The decision sequence of a worker: its actions in order, split by worker, judged by the task."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.events import parse_event
from honed.domain.outcome import Failure, Success, Timeout, Unknown
from honed.domain.records import ActionRecord, Record, record_from_event
from honed.errors import LearnError
from honed.learn_models.decision_sequence import DecisionSequenceLearnModel
from tests.unit.learn_models.actions import actions

MODEL = DecisionSequenceLearnModel()
ACTIONS = ("restart", "done", "check_status", "read_logs", "tick_end")


def record(**fields: Any) -> Record:
    return record_from_event(parse_event(msgspec.json.encode(fields)), received_ms=1_000)


def act(
    name: str, *, worker: int = 1, ok: bool = True, kpi: float | None = None, **fields: Any
) -> Record:
    result = {"success": ok, "kpi_contribution": kpi}
    common = {"task_id": "t", "tick": 1, "worker_id": worker}
    return record(action=name, result=result, **(common | fields))


def seen(text: str) -> dict[str, Any]:
    return {"context": {"observation": text}}


@pytest.mark.feature("SE-087")
def test_a_row() -> None:
    """The task, what could be done, and what was done with success, in order."""
    records = [
        act("task_start"),
        act("check_status", **seen("Users report slow checkout.")),
        act("read_logs", target="billing-api", **seen("3 timeouts")),
        act("ping", ok=False),
        act("restart", target="billing-api"),
        act("done"),
    ]
    (episode,) = MODEL.build_episodes(records, now_ms=1)
    example = MODEL.convert(episode, available_actions=ACTIONS)
    assert [message.role for message in example.messages] == ["system", "user", "assistant"]
    assert example.messages[1].text == (
        "Task: Users report slow checkout.\nAvailable actions: check_status, read_logs, restart"
    )
    assert (
        example.messages[2].text == "check_status -> read_logs(billing-api) -> restart(billing-api)"
    )


@pytest.mark.feature("SE-087")
def test_the_task_is_split_by_worker() -> None:
    """Each worker has an episode of its own, and the task's `done` judges all of them."""
    records = [
        *(act(name, worker=w) for name in ("a", "b", "c") for w in (1, 2)),
        act("a", worker=3),
        act("c", worker=2, ok=False),
        act("done", worker=9),
    ]
    one, two = MODEL.build_episodes(records, now_ms=1)
    assert (one.metadata.worker_id, two.metadata.worker_id) == (1, 2)
    assert (one.outcome, two.outcome) == (Success(1.0), Success(0.75))
    assert one.id < two.id
    assert one.task_id == two.task_id == "t"


@pytest.mark.feature("SE-087")
def test_short_parts_are_dropped() -> None:
    """System events do not make a part long enough."""
    records = [act("tick_start"), act("a"), act("tick_end"), act("b"), act("idle"), act("done")]
    assert MODEL.build_episodes(records, now_ms=1) == []
    shorter = DecisionSequenceLearnModel(min_actions=2)
    assert len(shorter.build_episodes(records, now_ms=1)) == 1
    assert (
        DecisionSequenceLearnModel(min_actions=2, system_events={"a"}).build_episodes(
            records, now_ms=1
        )
        == []
    )


def test_a_task_without_end_waits_then_times_out() -> None:
    """Without `done` the group waits; gone idle it is a timeout with its score."""
    records = [act("a"), act("b"), act("c", ok=False), act("d")]
    assert MODEL.build_episodes(records, now_ms=1) == []
    (episode,) = MODEL.build_episodes(records, now_ms=1, final=True)
    assert episode.outcome == Timeout(0.75)


def test_scores() -> None:
    """KPI shares add up inside 0..1; else the share of successes; a verdict beats both."""
    assert MODEL.evaluate([]) == Unknown()
    assert MODEL.evaluate([act("done")]) == Success(1.0)
    assert MODEL.evaluate([act("a", kpi=0.25), act("b"), act("done")]) == Success(0.25)
    assert MODEL.evaluate([act("a", kpi=0.9), act("b", kpi=0.9), act("done")]) == Success(1.0)
    assert MODEL.evaluate([act("a", kpi=-1), act("done")]) == Success(0.0)
    assert MODEL.evaluate([act("a", kpi=0.5), act("done", worker=2, kpi=0.3)]) == Success(0.5)
    assert MODEL.evaluate([act("a"), act("done", ok=False)]) == Failure("task failed")
    told = record(type="outcome", task_id="t", outcome={"type": "failure", "reason": "wrong"})
    assert MODEL.evaluate([act("a"), act("done"), told]) == Failure("wrong")


def test_what_is_left_out_has_its_reason() -> None:
    """Failed actions are told; the engine's own events are no actions."""
    records = [
        act("a", **seen("x")),
        act("b", ok=False, target="db", tick=7),
        act("c"),
        act("done"),
    ]
    (episode,) = MODEL.build_episodes(records, now_ms=1)
    (failed,) = MODEL.left_out(episode)
    assert failed == ("action b(db) of tick 7", "it failed", None)


def test_what_cannot_teach() -> None:
    """No success, no task, or actions that may not be imitated: refused with the episode's id."""
    names = ("a", "b", "c")
    for records, says in [
        ([act(name, ok=False, **seen("x")) for name in names], "no action of it succeeded"),
        ([act(name) for name in names], "neither an observation nor a scenario"),
        ([act(name, trust="untrusted", **seen("x")) for name in names], "may not be imitated"),
        ([act(name, train=False, **seen("x")) for name in names], "may not be imitated"),
    ]:
        (episode,) = MODEL.build_episodes(records, now_ms=1, final=True)
        with pytest.raises(LearnError, match=says) as caught:
            MODEL.convert(episode)
        assert episode.id in str(caught.value)


def test_a_scenario_stands_in_for_the_task() -> None:
    """Without an observation the scenario states the task; unknown actions are not listed."""
    records = [act(name, scenario="triage", context={"lora": "triage@2"}) for name in "abc"]
    (episode,) = MODEL.build_episodes(records, now_ms=1, final=True)
    assert MODEL.convert(episode).messages[1].text == "Task: triage"
    assert episode.metadata.adapter_id == "triage@2"
    told = DecisionSequenceLearnModel(available_actions=("z",), system_prompt="")
    assert [m.text for m in told.convert(episode).messages] == [
        "Task: triage\nAvailable actions: z",
        "a -> b -> c",
    ]


def test_only_actions_and_verdicts_of_a_task_belong_to_it() -> None:
    """Calls, probes and verdicts without a task are not its business."""
    assert MODEL.group_key(act("a")) == "task:t"
    assert MODEL.group_key(act("a", purpose="probe")) is None
    assert MODEL.group_key(record(type="llm_call", task_id="t")) is None
    assert (
        MODEL.group_key(record(type="outcome", receipt_id="r", outcome={"type": "unknown"})) is None
    )


@pytest.mark.feature("SE-087")
@given(actions, st.integers(1, 4))
def test_parts_are_those_of_the_obvious_reading(
    records: Sequence[ActionRecord], min_actions: int
) -> None:
    """For any task: one part for each worker with enough actions of its own, in order of ticks, judged by all."""
    model = DecisionSequenceLearnModel(min_actions=min_actions)
    made = model.build_episodes([*records, act("done", worker=9, tick=9)], now_ms=1)
    ordered = [r for tick in range(4) for r in records if r.tick == tick]
    own = [r for r in ordered if r.action not in ("tick_start", "idle")]
    parts = {w: [r for r in own if r.worker_id == w] for w in (1, 2)}
    expected = {w: part for w, part in parts.items() if len(part) >= min_actions}
    assert {episode.metadata.worker_id: episode.actions[:-1] for episode in made} == expected
    for episode in made:
        part = episode.actions[:-1]
        shares = [r.kpi_contribution for r in part if r.kpi_contribution is not None]
        share = sum(r.success for r in part) / len(part)
        assert isinstance(episode.outcome, Success)
        assert episode.outcome.score == pytest.approx(
            min(1.0, max(0.0, sum(shares))) if shares else share
        )
