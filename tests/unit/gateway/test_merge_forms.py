"""What clients of Anthropic's and OpenAI's newer APIs may send, and answers that did not end."""

from typing import Any

import msgspec
import pytest

from honed.domain.message import ContentPart, Message
from honed.gateway.merge import Answered, Asked, UnreadableError, is_kept, read_call

ANTHROPIC, RESPONSES, TEXT = "/v1/messages", "/v1/responses", "/v1/completions"
USAGE = {"input_tokens": 1, "cache_read_input_tokens": 6, "output_tokens": 3}
SAID: dict[str, dict[str, Any]] = {
    ANTHROPIC: {
        "content": [{"type": "text", "text": "yes"}],
        "stop_reason": "end_turn",
        "usage": USAGE,
    },
    RESPONSES: {
        "status": "completed",
        "output": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "yes"}],
            }
        ],
        "usage": {"input_tokens": 7, "output_tokens": 3},
    },
}
ASKED: dict[str, dict[str, Any]] = {
    ANTHROPIC: {"messages": [{"role": "user", "content": "well?"}]},
    RESPONSES: {"input": "well?"},
    TEXT: {"prompt": "well?"},
}


def read(
    path: str, asked: dict[str, Any] | None = None, answer: dict[str, Any] | None = None
) -> tuple[Asked, Answered]:
    request = msgspec.json.encode(ASKED[path] if asked is None else asked)
    said = msgspec.json.encode(SAID[path] if answer is None else answer)
    return read_call(path, request, said, is_stream=False)


@pytest.mark.parametrize("path", SAID)
def test_tokens_of_the_prompt_are_counted_with_those_in_the_cache(path: str) -> None:
    """Anthropic's count leaves them out, OpenAI's does not."""
    _, answered = read(path)
    assert (answered.prompt_tokens, answered.completion_tokens) == (7, 3)
    assert (answered.message.text, answered.finish_reason) == ("yes", "stop")


def test_images_and_results_with_images_are_parts() -> None:
    """They have no text, and their place is kept."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}}
    text = {"type": "text", "text": "look"}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [text, image]}
    turns = [
        {"role": "user", "content": [text, image]},
        {"role": "user", "content": [result, {"type": "tool_result", "tool_use_id": "c2"}]},
    ]
    asked, _ = read(ANTHROPIC, {"messages": turns})
    parts = (ContentPart(text="look"), ContentPart(type="image_url"))
    assert asked.messages == (
        Message(role="user", content=parts),
        Message(role="tool", tool_call_id="c1", content=parts),
        Message(role="tool", tool_call_id="c2", content=""),
    )


def test_tools_may_say_little_of_themselves() -> None:
    """A tool without description or schema is one; those that are no functions are left out."""
    tool = {"name": "get", "description": None}
    asked, _ = read(ANTHROPIC, ASKED[ANTHROPIC] | {"tools": [tool]})
    function = {"name": "get", "description": "", "parameters": {}}
    assert asked.tools == ({"type": "function", "function": function},)
    tools = [{"type": "web_search"}, {"type": "function", "name": "get", "parameters": None}]
    asked, _ = read(RESPONSES, ASKED[RESPONSES] | {"tools": tools})
    assert asked.tools == ({"type": "function", "function": {"name": "get", "parameters": {}}},)


@pytest.mark.parametrize(
    ("limit", "status", "details", "expected"),
    [
        (None, "completed", None, "stop"),
        (3, "completed", None, "length"),
        (4, "completed", None, "stop"),
        (None, "incomplete", {"reason": "max_output_tokens"}, "length"),
        (None, "incomplete", {"reason": "content_filter"}, "content_filter"),
    ],
)
def test_a_response_that_was_cut_is_told_from_one_that_ended(
    limit: int | None, status: str, details: dict[str, str] | None, expected: str
) -> None:
    """llama-server calls both completed; what was asked for says which it was."""
    answer = SAID[RESPONSES] | {"status": status, "incomplete_details": details}
    _, answered = read(RESPONSES, ASKED[RESPONSES] | {"max_output_tokens": limit}, answer)
    assert answered.finish_reason == expected


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (ANTHROPIC, {}),
        (ANTHROPIC, {"content": [], "stop_reason": None}),
        (RESPONSES, {"status": "failed", "output": []}),
        (RESPONSES, {"status": "in_progress", "output": []}),
        (TEXT, {"choices": []}),
        (TEXT, {"choices": [{"index": 0, "text": "x", "finish_reason": None}]}),
    ],
)
def test_an_answer_that_did_not_end_is_no_call(path: str, answer: dict[str, Any]) -> None:
    """Nobody knows how it would have gone on."""
    with pytest.raises(UnreadableError):
        read(path, None, answer)


@pytest.mark.parametrize(
    ("path", "events"),
    [
        (ANTHROPIC, [{"type": "message_start", "message": {"content": []}}]),
        (ANTHROPIC, [{"type": "error", "error": {"message": "gone"}}]),
        (RESPONSES, [{"type": "response.created", "response": {"status": "in_progress"}}]),
        (RESPONSES, [{"type": "error", "error": {"message": "gone"}}]),
        (TEXT, [{"choices": [{"index": 0, "text": "x"}]}]),
        (TEXT, []),
    ],
)
def test_a_stream_that_broke_off_is_no_call(path: str, events: list[dict[str, Any]]) -> None:
    """Also when an error was the last that it said."""
    body = b"".join(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in events)
    with pytest.raises(UnreadableError):
        read_call(path, msgspec.json.encode(ASKED[path]), body, is_stream=True)


@pytest.mark.parametrize("item", [{"type": "item_reference", "id": "x"}, {"type": "message"}])
def test_an_item_that_says_nothing_by_itself_is_no_turn(item: dict[str, str]) -> None:
    """What it refers to is on no server that we know."""
    with pytest.raises(UnreadableError):
        read(RESPONSES, {"input": [item]})


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/completion", "/completions", "/v1/messages/count_tokens", "/"]
)
def test_what_is_no_call_of_the_model_is_not_kept(path: str) -> None:
    """It passes and leaves no event."""
    assert not is_kept(path)
