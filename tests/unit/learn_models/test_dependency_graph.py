"""Inferences of dependency graphs: which of them are right, and the rows that they become."""

import json
from typing import Any

import anyio
import pytest

from honed.client.wire import new_event_id
from honed.domain.episode import Episode
from honed.domain.events import parse_event
from honed.domain.outcome import Failure, Outcome, Success, Unknown
from honed.domain.records import DependencyGraphRecord, record_from_event
from honed.errors import LearnError
from honed.learn_models import DependencyGraphLearnModel, Options, create
from honed.ports import EpisodeFilter
from honed.training_sets import Export
from tests.feed_parts import action, failure, line, open_intake, success

pytestmark = pytest.mark.anyio
MODEL = create("dependency_graph")


def graph(**fields: Any) -> dict[str, Any]:
    """One inference."""
    return {
        "type": "dependency_graph_inference",
        "event_id": new_event_id(),
        "timestamp_ms": 1,
        "prompt": "Which of look, fix and test first?",
        "response": '{"discover": ["look"], "change": ["fix", "test"]}',
        "available_actions": ["fix", "look", "test"],
        "discover_order": ["look"],
        "not_discover_order": ["fix", "test"],
        "model": "tiny",
        "endpoint": "http://localhost",
        "latency_ms": 5,
        "success": True,
        **fields,
    }


async def episodes(*events: dict[str, Any], count: int = 1) -> list[Episode]:
    """What becomes of events in a real store."""
    async with open_intake(None, learn_models=[MODEL]) as intake:
        done = await intake.sink.ingest([line(event) for event in events])
        assert not done.rejected
        with anyio.fail_after(60):
            return [await intake.episodes.receive() for _ in range(count)]


@pytest.mark.feature("SE-088")
@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, Success(1.0)),
        ({"success": False}, Failure("the inference failed")),
        ({"error": "HTTP 500"}, Failure("HTTP 500")),
        ({"response": ""}, Failure("the answer is empty")),
        ({"discover_order": [], "not_discover_order": []}, Failure("both orders are empty")),
        ({"discover_order": ["look", "fly"]}, Failure("not available: fly")),
        ({"not_discover_order": ["fix", "look"]}, Failure("in both orders: look")),
    ],
)
async def test_an_inference_that_cannot_be_right_has_failed(
    changed: dict[str, Any], outcome: Outcome
) -> None:
    """One without a task is an episode at once."""
    [episode] = await episodes(graph(**changed))
    assert episode.outcome == outcome


@pytest.mark.feature("SE-088")
async def test_an_inference_is_worth_what_its_task_was() -> None:
    """Each of a task has an episode of its own; one that cannot be right stays a failure."""
    told = [graph(task_id="t"), graph(task_id="t", response=""), success(0.5, task_id="t")]
    made = await episodes(*told, count=2)
    assert [episode.outcome for episode in made] == [Success(0.5), Failure("the answer is empty")]
    [done] = await episodes(graph(task_id="t"), action(task_id="t", name="done"))
    assert done.outcome == Success(1.0)
    assert MODEL.evaluate([r for r in done.records if isinstance(r, DependencyGraphRecord)]) == (
        Unknown()
    )
    assert MODEL.evaluate([]) == Unknown()


async def test_what_may_not_be_imitated_makes_no_row() -> None:
    """An inference without an answer, without consent, or from nobody that is trusted."""
    for changed in ({"success": False}, {"train": False}, {"trust": "untrusted"}):
        [episode] = await episodes(graph(**changed))
        with pytest.raises(LearnError, match=episode.id):
            MODEL.convert(episode)


@pytest.mark.feature("SE-041")
async def test_prompt_and_answer_of_the_record_are_those_of_the_preference_row() -> None:
    """Both orders are kept, and they decide which of two answers is the better one."""
    wrong = graph(group_id="g", task_id="t2", response="fly", discover_order=["fly"])
    right = graph(group_id="g", task_id="t1")
    lost = graph(group_id="h", task_id="t3", response="test first")
    ends = [success(task_id="t1"), success(task_id="t2"), failure("no", task_id="t3")]
    async with open_intake(None, learn_models=[MODEL]) as intake:
        await intake.sink.ingest([line(event) for event in (wrong, right, lost, *ends)])
        with anyio.fail_after(60):
            made = [await intake.episodes.receive() for _ in range(3)]
        for episode in made:
            [record] = (await intake.store.get_episode(episode.id)).records_of(
                DependencyGraphRecord
            )
            [sent] = [e for e in (wrong, right, lost) if e["event_id"] == record.event_id]
            assert list(record.discover_order) == sent["discover_order"]
            assert list(record.not_discover_order) == sent["not_discover_order"]
            assert (record.prompt, record.response) == (sent["prompt"], sent["response"])
        export = Export(
            intake.store,
            MODEL,
            scenario="airline",
            shape="preference",
            filter=EpisodeFilter(learn_model=MODEL.name),
        )
        [row] = [json.loads(text) async for text in export.lines()]
    assert row["prompt"][-1] == {"role": "user", "content": right["prompt"]}
    assert row["chosen"] == [{"role": "assistant", "content": right["response"]}]
    assert row["rejected"] == [{"role": "assistant", "content": "fly"}]


@pytest.mark.feature("SE-088")
async def test_a_row_is_prompt_and_answer_of_the_record() -> None:
    """Word for word, behind a system turn that can be set."""
    [episode] = await episodes(graph())
    assert [(turn.role, turn.text) for turn in MODEL.convert(episode).messages] == [  # type: ignore[union-attr]
        ("system", DependencyGraphLearnModel.default_system_prompt()),
        ("user", "Which of look, fix and test first?"),
        ("assistant", '{"discover": ["look"], "change": ["fix", "test"]}'),
    ]
    own = create("dependency_graph", Options(system_prompt="Plan."))
    assert own.convert(episode).messages[0].text == "Plan."  # type: ignore[union-attr]


@pytest.mark.feature("SE-088")
async def test_an_inference_waits_for_its_task() -> None:
    """One that names a task is no episode before the task has ended, unless the group goes idle."""
    told = record_from_event(parse_event(line(graph(task_id="t"))), received_ms=1)
    assert not MODEL.is_complete([told])
    assert MODEL.build_episodes([told], now_ms=1) == []
    [late] = MODEL.build_episodes([told], now_ms=1, final=True)
    assert late.outcome == Unknown()
    alone = record_from_event(parse_event(line(graph())), received_ms=1)
    assert MODEL.is_complete([alone])
