"""Written in a trainer's shape and read again, a conversation is the same in all the shape can hold."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown, is_success
from honed.domain.training_data import ChatExample
from honed.training_sets import FORMATS, ImportedTrajectory
from honed.training_sets.formats import StoredEpisode, format_of
from honed.training_sets.shapes import (
    GAPS,
    NO_FAILURE,
    NO_OUTCOME,
    NO_SUCCESS,
    SAME_ANSWER,
    SHAPES,
    InexpressibleError,
    ShapeName,
    cut,
    pairs,
)
from honed.training_sets.trajectories import Trajectory, events_of
from tests.unit.training_sets.conversations import (
    completions,
    episode_of,
    example_of,
    plain,
    prompts,
    trajectories,
)

EXCERPT = Path(__file__).parents[2] / "data" / "tau-airline-excerpt.jsonl"
OUTCOMES = st.sampled_from([Success(1.0), Failure("no"), Timeout()])
ASKED = Message(role="user", content="hi")
SAID = Message(role="assistant", content="hello")


def read(line: bytes, form: str) -> list[ImportedTrajectory]:
    """The row, found by its keys."""
    found = format_of(line)
    assert found.name == form
    told = found.read(line)
    assert not isinstance(told, StoredEpisode)
    return [events_of(one) for one in told]


def same(one: ChatExample, two: ChatExample) -> bool:
    return (one.messages, one.tools, one.trained_turns) == (
        two.messages,
        two.tools,
        two.trained_turns,
    )


def example(*messages: Message, trained: tuple[int, ...] | None = None) -> ChatExample:
    return ChatExample(messages=messages, trained_turns=trained)


@settings(deadline=None, max_examples=60)
@given(told=trajectories())
def test_prompt_completion(told: Trajectory) -> None:
    """Turns, tools, and which of them were given."""
    before = example_of(events_of(told))
    line = SHAPES["prompt-completion"](before, Unknown())
    (after,) = read(line, "prompt-completion")
    assert same(example_of(after), before)
    if told.num_context:
        assert len(json.loads(line)["prompt"]) == told.num_context


@settings(deadline=None, max_examples=60)
@given(told=trajectories(), outcome=OUTCOMES)
def test_labelled(told: Trajectory, outcome: Outcome) -> None:
    """The label as well; how good or bad is not the shape's to say."""
    before = example_of(events_of(told))
    (after,) = read(SHAPES["labelled"](before, outcome), "labelled")
    assert same(example_of(after), before)
    assert is_success(episode_of(after).outcome) == is_success(outcome)


@settings(deadline=None, max_examples=60)
@given(prompt=prompts(), completion=completions())
def test_sft(prompt: tuple[Message, ...], completion: tuple[Message, ...]) -> None:
    """Turns and tools of a conversation of which every answer counts."""
    before = example_of(events_of(Trajectory(messages=prompt + completion)))
    (after,) = read(SHAPES["sft"](before, Unknown()), "sft")
    assert same(example_of(after), before)


@settings(deadline=None, max_examples=60)
@given(prompt=prompts(), completion=completions())
def test_sharegpt(prompt: tuple[Message, ...], completion: tuple[Message, ...]) -> None:
    """What is said and called, in order; ids of calls and names of results have no place."""
    before = example_of(events_of(Trajectory(messages=prompt + completion)))
    (after,) = read(SHAPES["sharegpt"](before, Unknown()), "sharegpt")
    assert plain(example_of(after).messages) == plain(before.messages)


@settings(deadline=None, max_examples=60)
@given(prompt=prompts(), answers=st.lists(st.tuples(completions(), OUTCOMES), max_size=4))
def test_preference(
    prompt: tuple[Message, ...], answers: list[tuple[tuple[Message, ...], Outcome]]
) -> None:
    """Each attempt of a group occurs with its side, or is counted; read again, they are one group."""
    attempts = [
        (
            example_of(events_of(Trajectory(messages=prompt + said, num_context=len(prompt)))),
            outcome,
        )
        for said, outcome in answers
    ]
    rows, left_out = pairs(attempts)
    found = [told for row in rows for told in read(row, "preference")]
    assert len({told.group_id for told in found}) <= 1
    before = {(msgspec.json.encode(e.messages), is_success(o)) for e, o in attempts}
    after = {
        (msgspec.json.encode(example_of(told).messages), is_success(episode_of(told).outcome))
        for told in found
    }
    assert after <= before
    if before != after:
        assert left_out
    assert len({told.task_id for told in found}) == len(after)


def test_conversations_have_role_and_content() -> None:
    """Under the key that older trainers read."""
    line = SHAPES["conversations"](example(ASKED, SAID), Unknown())
    assert json.loads(line) == {
        "conversations": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
        ]
    }


def test_the_excerpt_in_every_shape() -> None:
    """Real trajectories with tools, as they were."""
    rows = EXCERPT.read_bytes().splitlines()
    found = [events_of(told) for row in rows for told in FORMATS["tau-bench"].read(row)]  # type: ignore[union-attr]
    for told in found:
        before, outcome = example_of(told), episode_of(told).outcome
        for shape in SHAPES:
            form = "sharegpt" if shape == "conversations" else shape  # one key, turns of two kinds
            (after,) = read(SHAPES[shape](before, outcome), form)
            if shape == "sharegpt":
                assert plain(example_of(after).messages) == plain(before.messages)
            else:
                assert same(example_of(after), before)


def test_answers_that_may_not_be_imitated() -> None:
    """Those before the first one that may are its prompt; those behind it have no place."""
    turns = (ASKED, SAID, ASKED, SAID)
    first = example(*turns, trained=(3,))
    assert cut(first).prompt == turns[:3]
    for shape in ("sft", "conversations", "sharegpt"):
        with pytest.raises(InexpressibleError, match=GAPS):
            SHAPES[shape](first, Success())  # type: ignore[index]
    for shape in SHAPES:
        with pytest.raises(InexpressibleError, match=GAPS):
            SHAPES[shape](example(*turns, trained=(1,)), Success())


@pytest.mark.parametrize(
    ("shape", "turns", "says"),
    [
        ("labelled", (ASKED, SAID), NO_OUTCOME),
        ("sharegpt", (ASKED, ASKED, SAID), "order"),
        ("sharegpt", (Message(role="developer", content="x"), ASKED, SAID), "developer"),
        ("sharegpt", (Message(role="user", content="hi", name="Bo"), SAID), "named user"),
        (
            "sharegpt",
            (ASKED, Message(role="assistant", content="hi", reasoning_content="hm")),
            "reasoning",
        ),
        (
            "sharegpt",
            (
                ASKED,
                Message(
                    role="assistant",
                    tool_calls=(ToolCall(function=FunctionCall(name="f", arguments="not json")),),
                ),
            ),
            "no JSON object",
        ),
    ],
)
def test_what_a_shape_cannot_hold(shape: ShapeName, turns: tuple[Message, ...], says: str) -> None:
    """Refused with a reason that is the same for all with that fault."""
    with pytest.raises(InexpressibleError, match=says):
        SHAPES[shape](example(*turns), Unknown())


def test_attempts_without_a_partner_are_counted() -> None:
    """Each for its own reason; three successes and one failure are three pairs."""
    other = Message(role="assistant", content="go")
    good, bad = (example(ASKED, SAID), Success()), (example(ASKED, other), Failure(""))
    alone = example(Message(role="user", content="else"), SAID)
    assert pairs([good]) == ([], [NO_FAILURE])
    assert pairs([bad, (alone, Success())])[1] == [NO_SUCCESS, NO_FAILURE]
    assert pairs([good, (example(ASKED, SAID), Failure(""))]) == ([], [SAME_ANSWER])
    rows, left_out = pairs([good, good, good, bad, (alone, Unknown())])
    assert (len(rows), left_out) == (3, [NO_OUTCOME])
