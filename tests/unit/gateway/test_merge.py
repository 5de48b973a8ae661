"""A streamed answer and a whole one tell the same call."""

from typing import Any

import msgspec
import pytest

from honed.domain.message import FunctionCall, ToolCall
from honed.gateway.merge import Answered, UnreadableError
from honed.gateway.merge.chat import read_answered, read_asked
from tests.unit.gateway.stub import delta


def streamed(*events: bytes) -> Answered:
    return read_answered(b"".join(events) + b"data: [DONE]\n\n", is_stream=True)


def whole(message: dict[str, Any], **fields: Any) -> Answered:
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return read_answered(msgspec.json.encode({"choices": [choice], **fields}), is_stream=False)


def test_pieces_of_text_become_one_turn() -> None:
    """Content and reasoning are joined in order, role and null deltas add nothing."""
    answered = streamed(
        delta(role="assistant", content=None),
        delta(reasoning_content="it is "),
        delta(reasoning_content="full"),
        delta(content="disk: "),
        delta(content="purge"),
        delta(finish_reason="stop"),
    )
    message = {"role": "assistant", "content": "disk: purge", "reasoning_content": "it is full"}
    assert answered == whole(message)


def test_reasoning_has_one_name() -> None:
    """vLLM calls it otherwise; its answers have fields without a value, and an empty list of calls."""
    empty = {"refusal": None, "annotations": None, "audio": None, "function_call": None}
    told = {"role": "assistant", "content": "purge", "reasoning": "it is full", "tool_calls": []}
    expected = whole({"role": "assistant", "content": "purge", "reasoning_content": "it is full"})
    assert whole(empty | told) == expected
    assert expected == streamed(
        delta(role="assistant", content="", reasoning=None, tool_calls=None),
        delta(reasoning="it is "),
        delta(reasoning="full"),
        delta(content="purge"),
        delta(finish_reason="stop"),
    )
    asked = read_asked(msgspec.json.encode({"messages": [told]}))
    assert asked.messages == (expected.message,)


def test_pieces_of_tool_calls_become_calls() -> None:
    """Arguments arrive bit by bit, interleaved by index."""
    answered = streamed(
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "get", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"id":'}}]),
        delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "list"}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": " 7}"}}]),
        delta(finish_reason="tool_calls"),
    )
    assert answered.message.tool_calls == (
        ToolCall(id="c1", function=FunctionCall(name="get", arguments='{"id": 7}')),
        ToolCall(id="c2", function=FunctionCall(name="list", arguments="{}")),
    )
    assert answered.message.content is None
    assert answered.finish_reason == "tool_calls"


def test_usage_comes_in_an_event_of_its_own() -> None:
    """OpenAI's last event before the end has no choices."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    answered = streamed(
        delta(content="x", finish_reason="stop"),
        b"data: " + msgspec.json.encode({"choices": [], "usage": usage}) + b"\n\n",
    )
    assert (answered.prompt_tokens, answered.completion_tokens) == (7, 3)
    assert answered == whole({"role": "assistant", "content": "x"}, usage=usage)


def test_the_answer_keeps_its_id() -> None:
    """Each piece of a stream has it; one that is no text is none, and costs no call."""
    piece = msgspec.json.decode(delta(content="x", finish_reason="stop").removeprefix(b"data: "))
    named = b"data: " + msgspec.json.encode(piece | {"id": "chatcmpl-1"}) + b"\n\n"
    assert streamed(named, named).id == "chatcmpl-1"
    message = {"role": "assistant", "content": "x"}
    assert whole(message, id="chatcmpl-1").id == "chatcmpl-1"
    assert whole(message, id=7).id is None


def test_only_the_first_choice_counts() -> None:
    """With n > 1 the others are left out."""
    other = {"index": 1, "finish_reason": "stop", "delta": {"content": "other"}}
    answered = streamed(
        b"data: " + msgspec.json.encode({"choices": [other]}) + b"\n\n",
        delta(content="first", finish_reason="stop"),
    )
    assert answered.message.content == "first"


def test_comments_and_line_ends_of_both_kinds_are_read() -> None:
    """A keep-alive comment is no event; CRLF ends a line too."""
    body = b": ping\r\n\r\n" + delta(content="x", finish_reason="stop").replace(b"\n", b"\r\n")
    assert read_answered(body, is_stream=True).message.content == "x"


@pytest.mark.parametrize(
    ("body", "is_stream"),
    [
        (b"", True),
        (delta(content="half"), True),
        (delta(content="x") + b'data: {"error": {"message": "gone"}}\n\n', True),
        (b"data: {\n\n", True),
        (b"{}", False),
        (b'{"choices": []}', False),
        (b"not json", False),
    ],
)
def test_unfinished_answer_is_no_call(body: bytes, is_stream: bool) -> None:
    """Without a finish_reason nobody knows how the turn would have gone on."""
    with pytest.raises(UnreadableError):
        read_answered(body, is_stream=is_stream)


def test_request_is_read_with_tools_and_parts() -> None:
    """What is kept of a request: conversation, tools, model; unknown fields are passed over."""
    tool = {"type": "function", "function": {"name": "get", "parameters": {}}}
    asked = read_asked(
        msgspec.json.encode(
            {
                "model": "m",
                "temperature": 0.3,
                "tools": [tool],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "7"},
                ],
            }
        )
    )
    assert asked.messages is not None
    assert [message.text for message in asked.messages] == ["hi", "7"]
    assert asked.tools == (tool,)


@pytest.mark.parametrize("body", [b"{}", b'{"messages": [{"role": "alien"}]}', b"[]", b"\xff"])
def test_request_without_a_conversation_is_no_call(body: bytes) -> None:
    """It is passed on all the same, but not captured."""
    with pytest.raises(UnreadableError):
        read_asked(body)
