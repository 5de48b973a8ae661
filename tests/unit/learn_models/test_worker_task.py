"""What a task took: its actions of all workers, in order of ticks, judged by `done`."""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.domain.records import ActionRecord, Record
from honed.errors import LearnError
from honed.learn_models import WorkerTaskLearnModel
from tests.feed_parts import action, line, open_intake
from tests.unit.learn_models.actions import act, actions, record, seen, told

MODEL = WorkerTaskLearnModel()
BROKEN = {"success": False, "error": "disk full"}
OFFERED = ("restart", "done", "check_status", "read_logs", "tick_end")


def answer(*records: Record, model: WorkerTaskLearnModel = MODEL) -> str:
    (episode,) = model.build_episodes(records, now_ms=1)
    return model.convert(episode).messages[-1].text


@pytest.mark.feature("SE-086")
def test_a_row() -> None:
    """The task, what could be done, and what was done with success by anybody, in order of ticks."""
    records = [
        act("task_start", tick=0),
        act("read_logs", target="billing-api", tick=2, worker=2, **seen("3 timeouts")),
        act("check_status", tick=1, **seen("Users report slow checkout.")),
        act("ping", ok=False, tick=3),
        act("restart", target="billing-api", tick=4),
        act("done", tick=5),
    ]
    (episode,) = MODEL.build_episodes(records, now_ms=1)
    assert [action.tick for action in episode.actions] == [0, 1, 2, 3, 4, 5]
    example = MODEL.convert(episode, available_actions=OFFERED)
    assert [(turn.role, turn.text) for turn in example.messages] == [
        (
            "system",
            "You are a worker in a swarm. Choose the actions that complete the task, in order.",
        ),
        (
            "user",
            "Task: Users report slow checkout.\nAvailable actions: check_status, read_logs, restart",
        ),
        ("assistant", "check_status -> read_logs(billing-api) -> restart(billing-api)"),
    ]
    assert [left.what for left in MODEL.left_out(episode)] == ["action ping of tick 3"]


@pytest.mark.feature("SE-086")
def test_a_group_is_a_task_and_done_closes_it() -> None:
    """Only actions and verdicts that name a task belong to it; work alone is an attempt."""
    assert MODEL.group_key(act("a")) == MODEL.group_key(told(Success())) == "task:t"
    assert MODEL.group_key(act("a", purpose="evaluation")) is None
    assert MODEL.group_key(record(type="llm_call", task_id="t")) is None
    assert MODEL.group_key(record(type="outcome", outcome={"type": "unknown"})) is None
    assert [MODEL.is_closing(act(name)) for name in ("a", "task_end", "done")] == [
        False,
        False,
        True,
    ]
    open_task = [act("a"), act("b")]
    assert MODEL.build_episodes(open_task, now_ms=1) == []
    assert len(MODEL.build_episodes([*open_task, act("done")], now_ms=1)) == 1
    (late,) = MODEL.build_episodes([*open_task, act("c", ok=False)], now_ms=1, final=True)
    assert late.outcome == Timeout(2 / 3)


@pytest.mark.feature("SE-086")
@pytest.mark.parametrize(
    ("names", "min_actions", "count"),
    [
        (["done"], 2, 0),
        (["a", "done"], 2, 1),
        (["a", "b"], 2, 1),
        (["a"], 2, 0),
        (["tick_start", "tick_end", "idle", "done"], 2, 0),
        (["a", "done"], 3, 0),
        (["a", "b", "done"], 3, 1),
        (["done"], 1, 1),
        ([], 2, 0),
    ],
)
def test_short_tasks_make_no_episode(names: list[str], min_actions: int, count: int) -> None:
    """`done` counts, the engine's own events do not."""
    model = WorkerTaskLearnModel(min_actions=min_actions)
    made = model.build_episodes([act(name) for name in names], now_ms=1, final=True)
    assert len(made) == count


@pytest.mark.feature("SE-086")
def test_dropped_tasks_are_counted(tmp_path: Path) -> None:
    """A task that is too short is a group without an episode in what the daemon counts."""

    async def main() -> None:
        idle = timedelta(milliseconds=50)
        async with open_intake(tmp_path / "honed.db", learn_models=[MODEL], idle=idle) as intake:
            short = [action(task_id="short", name="done")]
            long = [action(task_id="long", name=name) for name in ("look", "done")]
            await intake.sink.ingest([line(event) for event in (*short, *long)])
            with anyio.fail_after(60):
                assert (await intake.episodes.receive()).task_id == "long"
                while not intake.sink.counts().groups_without_episode:
                    await anyio.sleep(0.01)

    anyio.run(main)


@pytest.mark.parametrize(
    ("records", "outcome"),
    [
        ([], Unknown()),
        ([act("a"), act("b", ok=False), act("done")], Success(0.5)),
        ([act("a", ok=False), act("done")], Success(0.0)),
        ([act("done")], Success(1.0)),
        ([act("tick_start", ok=False), act("done")], Success(1.0)),
        ([act("a", kpi=0.25), act("b", ok=False), act("done")], Success(0.25)),
        ([act("a", kpi=0.5), act("done", worker=2, kpi=0.25)], Success(0.75)),
        ([act("a", kpi=0.9), act("b", kpi=0.9), act("done")], Success(1.0)),
        ([act("a", kpi=-1), act("done")], Success(0.0)),
        ([act("a"), act("done", ok=False)], Failure("task failed")),
        (
            [act("a"), record(action="done", task_id="t", tick=9, worker_id=1, result=BROKEN)],
            Failure("disk full"),
        ),
        ([act("a"), act("b", ok=False)], Timeout(0.5)),
        ([act("a", kpi=0.3)], Timeout(0.3)),
        ([act("tick_start")], Timeout(1.0)),
        ([act("a"), act("done"), told(Failure("wrong"))], Failure("wrong")),
    ],
)
def test_how_a_task_ended(records: list[Record], outcome: Outcome) -> None:
    """`done` judges; a KPI counts before the share of successes; what was told counts before all."""
    assert MODEL.evaluate(records) == outcome


@given(actions, st.sampled_from([None, True, False]))
def test_scores_are_those_of_a_count_by_hand(
    records: Sequence[ActionRecord], done: bool | None
) -> None:
    """For any actions: the formula, and an order of arrival that does not matter to it."""
    closed = [*records, *([] if done is None else [act("done", ok=done)])]
    kpis = [r.kpi_contribution for r in records if r.kpi_contribution is not None]
    own = [r for r in records if r.action in ("look", "fix", "test")]
    share = sum(r.success for r in own) / len(own) if own else 1.0
    score = pytest.approx(min(1.0, max(0.0, sum(kpis))) if kpis else share)
    match MODEL.evaluate(closed):
        case Success(found):
            assert (done, found) == (True, score)
        case Failure(reason):
            assert (done, reason) == (False, "task failed")
        case Timeout(found):
            assert (done, found) == (None, score)
        case Unknown():
            assert not closed
    assert MODEL.evaluate(closed) == MODEL.evaluate(closed[::-1])


@given(actions)
def test_an_answer_lists_the_successful_actions_by_tick(records: Sequence[ActionRecord]) -> None:
    """Nothing failed, nothing of the engine's, every success once; an empty answer is refused."""
    # `seen` makes the task known, and is the engine's: it is no part of the answer
    closed = [act("task_start", tick=0, **seen("x")), *records, act("done", tick=9)]
    expected = [
        record.action
        for tick in range(4)
        for record in records
        if record.tick == tick and record.success and record.action in ("look", "fix", "test")
    ]
    model = WorkerTaskLearnModel(min_actions=1)
    (episode,) = model.build_episodes(closed, now_ms=1)
    episode = msgspec.structs.replace(
        episode, metadata=msgspec.structs.replace(episode.metadata, scenario="triage")
    )
    if not expected:
        with pytest.raises(LearnError, match=episode.id):
            model.convert(episode)
        return
    assert model.convert(episode).messages[-1].text.split(" -> ") == expected


@given(actions, st.integers(2, 2**40), st.text("abc", min_size=1))
def test_ids_and_times_do_not_enter_a_prompt(
    records: Sequence[ActionRecord], timestamp_ms: int, name: str
) -> None:
    """The same work under other names and at another time gives the same turns."""
    closed = [act("look", **seen("slow")), *records, act("done", tick=9)]
    moved = [
        msgspec.structs.replace(
            record,
            timestamp_ms=timestamp_ms,
            task_id=name,
            event_id=name,
            group_id=name,
            agent=name,
            worker_id=record.worker_id + 7,
        )
        for record in closed
    ]
    (one,), (two,) = (MODEL.build_episodes(found, now_ms=1) for found in (closed, moved))
    assert MODEL.convert(one).messages == MODEL.convert(two).messages


def test_offered_actions_never_come_from_the_episode() -> None:
    """They are set, else those of the scenario; an episode's own would give the answer away."""
    done = [act("look", **seen("slow")), act("fix"), act("done")]
    (episode,) = MODEL.build_episodes(done, now_ms=1)
    question = MODEL.convert(episode).messages[1].text
    assert question == "Task: slow"
    of_scenario = MODEL.convert(episode, available_actions=("z", "look", "done", "fix"))
    assert of_scenario.messages[1].text == "Task: slow\nAvailable actions: fix, look, z"
    told_so = WorkerTaskLearnModel(available_actions=("z", "a"))
    assert told_so.convert(episode, available_actions=("q",)).messages[1].text == (
        "Task: slow\nAvailable actions: z, a"
    )


def test_more_system_events_can_be_set() -> None:
    """They are neither learned, nor counted, nor offered, nor scored."""
    model = WorkerTaskLearnModel(system_events={"beat"}, system_prompt="")
    records = [act("beat", ok=False), act("look", **seen("x")), act("done")]
    (episode,) = model.build_episodes(records, now_ms=1)
    assert episode.outcome == Success(1.0)
    row = model.convert(episode, available_actions=("beat", "look"))
    assert [turn.text for turn in row.messages] == ["Task: x\nAvailable actions: look", "look"]
    assert model.build_episodes([act("beat"), act("done")], now_ms=1) == []


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([act("a", ok=False, **seen("x"))], "no action of it succeeded; found 1 that failed"),
        ([act("a")], "neither an observation nor a scenario"),
        ([act("a", trust="untrusted", **seen("x"))], "may not be imitated"),
        ([act("a", train=False, **seen("x"))], "may not be imitated"),
    ],
)
def test_what_cannot_teach(records: list[Any], says: str) -> None:
    """No success, no task, or actions that may not be imitated: refused with the episode's id."""
    (episode,) = MODEL.build_episodes([*records, act("done")], now_ms=1)
    with pytest.raises(LearnError, match=re.escape(says)) as caught:
        MODEL.convert(episode)
    assert caught.value.episode_id == episode.id
    assert episode.id in str(caught.value)
    assert episode.id not in (caught.value.reason or "")
