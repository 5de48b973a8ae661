"""What a foreign row says, form by form, and what is refused rather than guessed."""

import json
from typing import Any

import msgspec
import pytest

from honed.domain.events import LlmCallEvent, parse_event
from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.outcome import Failure, Success, Unknown
from honed.training_sets import FORMATS
from honed.training_sets.formats import StoredEpisode, format_of
from honed.training_sets.trajectories import Trajectory, events_of
from tests.unit.training_sets.conversations import episode_of, example_of

Q, A, B = (
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "assistant", "content": "5"},
)
ASKED = Message(role="user", content="2 + 2?")
GOOD, BAD = Message(role="assistant", content="4"), Message(role="assistant", content="5")
HUMAN, GPT = {"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}
CALL = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2.50}}'}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


def told(row: dict[str, Any], form: str | None = None) -> list[Trajectory]:
    text = json.dumps(row).encode()
    found = format_of(text, FORMATS[form] if form else None).read(text)
    assert not isinstance(found, StoredEpisode)
    for trajectory in found:
        events_of(trajectory)
    return found


def refused(row: dict[str, Any], form: str | None = None) -> str:
    with pytest.raises((ValueError, msgspec.DecodeError)) as caught:
        told(row, form)
    return str(caught.value)


def test_the_first_form_that_fits_counts() -> None:
    """A preference row may carry messages and a prompt as text; it is a preference row."""
    row = {"prompt": "2 + 2?", "chosen": [Q, A], "rejected": [Q, B], "messages": [Q, A]}
    assert format_of(json.dumps(row).encode()).name == "preference"
    assert [one.messages for one in told(row)] == [(ASKED, GOOD), (ASKED, BAD)]
    assert [one.messages for one in told(row, "sft")] == [(ASKED, GOOD)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [Q], "chosen": [A], "rejected": [B]},
        {"chosen": [Q, A], "rejected": [Q, B]},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    ],
)
def test_a_preference_is_a_success_and_a_failure(row: dict[str, Any]) -> None:
    """In one group, whichever way it is written; the prompt is not learned."""
    good, bad = told(row)
    assert (good.messages, bad.messages) == ((ASKED, GOOD), (ASKED, BAD))
    assert (good.outcome, type(bad.outcome)) == (Success(1.0), Failure)
    assert good.group_id == bad.group_id == told({"prompt": [Q], "completion": [A]})[0].group_id
    assert events_of(good).task_id != events_of(bad).task_id


def test_an_implicit_prompt_ends_where_an_answer_begins() -> None:
    """Turns that are equal further on belong to the answers, unless both answer next."""
    more = {"role": "user", "content": "sure?"}
    good, bad = told({"chosen": [Q, A, Q, A], "rejected": [Q, A, more, B]})
    assert (good.num_context, bad.num_context) == (1, 1)
    good, bad = told({"chosen": [Q, A, Q, A], "rejected": [Q, A, Q, B]})
    assert good.num_context == 3
    assert example_of(events_of(good)).trained_turns == (3,)
    good, _ = told({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert [turn.text for turn in good.messages] == ["The sky is", " blue."]


def test_a_label_is_an_outcome() -> None:
    """And a prompt with a completion has none."""
    row = {"prompt": [Q, A, Q], "completion": [A]}
    assert told(row)[0].outcome == Unknown()
    assert told(row | {"label": True})[0].outcome == Success(1.0)
    (bad,) = told(row | {"label": False})
    assert isinstance(bad.outcome, Failure)
    episode = episode_of(events_of(bad))
    assert (episode.outcome, len(episode.records)) == (bad.outcome, 3)
    assert example_of(events_of(bad)).trained_turns == (3,)


def test_sharegpt() -> None:
    """Its speakers, its calls and their results; a text before a call is one answer with it."""
    turns = [HUMAN, GPT, CALL, {"from": "observation", "value": "4.5"}, GPT]
    (one,) = told({"conversations": turns, "system": "Be brief.", "tools": '[{"name": "add"}]'})
    call = ToolCall(function=FunctionCall(name="add", arguments='{"a": 2.50}'))
    assert one.messages == (
        Message(role="system", content="Be brief."),
        ASKED,
        Message(role="assistant", content="4", tool_calls=(call,)),
        Message(role="tool", content="4.5"),
        GOOD,
    )
    assert one.tools == ({"type": "function", "function": {"name": "add"}},)
    (both,) = told(
        {"conversations": [HUMAN, {**CALL, "value": f"[{CALL['value']}, {CALL['value']}]"}]}
    )
    assert both.messages[-1].tool_calls == (call, call)
    assert told({"conversations": [Q, A]})[0].messages == (ASKED, GOOD)


def test_alpaca() -> None:
    """Instruction and input are one question; history comes before it."""
    (one,) = told(
        {"instruction": "Add.", "input": "2, 2", "output": "4", "history": [["2 + 2?", "4"]]}
    )
    assert one.messages == (ASKED, GOOD, Message(role="user", content="Add.\n2, 2"), GOOD)


def test_flywheel() -> None:
    """Every choice is an attempt at one time; what it was for stays as tags."""
    row = {
        "timestamp": 1772442123.5,
        "workload_id": "support",
        "client_id": "shop",
        "request": {"model": "m", "messages": [Q], "tools": [{"type": "function"}]},
        "response": {"choices": [{"message": A, "finish_reason": "stop"}, {"message": B}]},
    }
    first, second = told(row)
    assert (first.messages, second.messages) == ((ASKED, GOOD), (ASKED, BAD))
    call = parse_event(events_of(first).calls[0])
    assert isinstance(call, LlmCallEvent)
    assert (call.timestamp_ms, call.model, call.finish_reason) == (1772442123500, "m", "stop")
    assert call.tags == {"workload_id": "support", "client_id": "shop"}
    later, _ = told(row | {"timestamp": 1772442124})
    assert (later.group_id, second.group_id) == (first.group_id, first.group_id)
    assert events_of(later).task_id != events_of(first).task_id


def test_turns_that_were_not_learned_from_stay_so() -> None:
    """The files of a training can be imported; only leading turns may be left out."""
    row = {"messages": [Q, A, Q, A]}
    (one,) = told(row | {"trained_turns": [3]})
    assert example_of(events_of(one)).trained_turns == (3,)
    assert example_of(events_of(told(row | {"trained_turns": [1, 3]})[0])).trained_turns is None
    assert "$.trained_turns" in refused(row | {"trained_turns": [1]})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [IMAGE, A]}, "$.messages[0].content has a part of type image_url"),
        ({"messages": [Q, A], "images": ["x.png"]}, "$.images"),
        ({"messages": [Q, {**A, "function_call": {"name": "f"}}]}, "$.messages[1].function_call"),
        ({"messages": [A]}, "answers nothing"),
        ({"messages": [Q, A], "tools": "not json"}, "$.tools"),
        ({"conversations": [{"from": "wizard", "value": "x"}, GPT]}, "'wizard': expected one of"),
        ({"conversations": [HUMAN, HUMAN, GPT]}, "twice in a row"),
        ({"conversations": [HUMAN, {"from": "tool", "value": "x"}, GPT]}, "no function_call"),
        ({"conversations": [HUMAN, CALL, GPT]}, "expected its observation"),
        ({"conversations": [HUMAN, {**CALL, "value": "add(2)"}]}, "no function call"),
        ({"conversations": [HUMAN, {**CALL, "value": '{"name": "f", "arguments": 1}'}]}, "object"),
        ({"conversations": [HUMAN, {"from": "gpt", "value": ""}]}, "neither content nor"),
        ({"conversations": [{"from": "gpt"}]}, "$.conversations[0]"),
        ({"instruction": "", "input": "", "output": "4"}, "nothing is asked"),
        ({"instruction": "2 + 2?", "output": ""}, "neither content nor"),
        ({"prompt": "x", "chosen": "4", "rejected": "4"}, "the same"),
        ({"prompt": "x", "chosen": "4", "rejected": ""}, "neither content nor"),
        ({"prompt": [Q], "chosen": [Q, A], "rejected": [B]}, "$.chosen begins with user"),
        ({"prompt": "other", "chosen": [Q, A], "rejected": [Q, B]}, "does not begin with"),
        ({"chosen": "yes", "rejected": "no"}, "share no beginning"),
        ({"chosen": [Q, A], "rejected": [IMAGE, B]}, "$.rejected[0].content"),
        ({"chosen": [Q, A], "rejected": [Q]}, "share no first turn"),
        ({"prompt": "x", "completion": "y", "label": 1}, "$.label"),
        ({"prompt": "x", "completion": [A]}, "differ in form"),
        ({"prompt": [], "completion": [A]}, "$.prompt is empty"),
        ({"prompt": [Q], "completion": [A, Q]}, "$.completion ends with user"),
        ({"request": {"messages": [Q]}, "response": {"choices": []}}, "choices is empty"),
        (
            {"request": {"messages": [Q]}, "response": {"choices": [{"delta": A}]}},
            "message is missing",
        ),
        (
            {"request": {"messages": [Q]}, "response": {"choices": [{"message": Q}]}},
            "role is user",
        ),
        (
            {
                "timestamp": 1e13,
                "request": {"messages": [Q]},
                "response": {"choices": [{"message": A}]},
            },
            "expected Unix seconds",
        ),
    ],
)
def test_refused_rows(row: dict[str, Any], says: str) -> None:
    """With the place and the reason."""
    assert says in refused(row)


def test_two_models_may_have_said_the_same() -> None:
    """Who said it is part of the event, so neither is taken for a change of the other."""
    one, two = (
        events_of(told({"messages": [Q, A], "model": name})[0]) for name in ("small", "large")
    )
    assert parse_event(one.calls[0]).event_id != parse_event(two.calls[0]).event_id
