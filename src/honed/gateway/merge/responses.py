"""OpenAI's `/v1/responses`: items of input and output, which become turns.

Items of the assistant that follow each other are one turn, as llama-server puts them together for the
chat template. A stream tells the whole answer again in its last event, so only that is read.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from honed.domain.message import ContentPart, FunctionCall, Message, Role, Tool, ToolCall
from honed.gateway.merge.said import (
    Answered,
    Asked,
    UnreadableError,
    as_id,
    decode,
    events,
    text_of,
    with_opening,
)


class _Part(Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""


class _Item(Struct):
    type: str = "message"
    role: Role | None = None
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str = ""
    arguments: str = ""
    output: str | list[_Part] | None = None


class _Tool(Struct):
    type: str = ""
    name: str = ""
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Body(Struct):
    input: str | list[_Item]
    instructions: str | None = None
    tools: list[_Tool] | None = None
    model: str | None = None
    max_output_tokens: int | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Incomplete(Struct):
    reason: str | None = None


class _Answer(Struct):
    output: list[_Item] = []
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    usage: _Usage | None = None
    id: Any = None


class _Event(Struct):
    response: _Answer | None = None


_body_decoder: Final = msgspec.json.Decoder(_Body)
_answer_decoder: Final = msgspec.json.Decoder(_Answer)
_event_decoder: Final = msgspec.json.Decoder(_Event)


def read_call(request: bytes, answer: bytes, *, is_stream: bool) -> tuple[Asked, Answered]:
    """What was asked and answered; raises UnreadableError."""
    body = decode(_body_decoder, request, "request")
    answered = _answered(_read(answer, is_stream=is_stream), body.max_output_tokens)
    return with_opening(_asked(body), answered, is_repeated=True)


def _asked(body: _Body) -> Asked:
    items = [_Item(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    messages = _turns(items)
    if body.instructions is not None:
        messages.insert(0, Message(role="system", content=body.instructions))
    tools = tuple(_as_chat(tool) for tool in body.tools or () if tool.type == "function")
    return Asked(messages=tuple(messages), tools=tools or None, model=body.model)


def _turns(items: list[_Item]) -> list[Message]:
    turns: list[Message] = []
    for item in items:
        turn = _turn(item)
        if turn.role == "assistant" and turns and turns[-1].role == "assistant":
            turns[-1] = _together(turns[-1], turn)
        else:
            turns.append(turn)
    return turns


def _turn(item: _Item) -> Message:
    match item.type:
        case "message" if item.role is not None:
            return Message(role=item.role, content=_content(item.content))
        case "function_call":
            function = FunctionCall(name=item.name, arguments=item.arguments or "{}")
            call = ToolCall(id=item.call_id, function=function)
            return Message(role="assistant", tool_calls=(call,))
        case "function_call_output":
            return Message(
                role="tool", tool_call_id=item.call_id, content=_content(item.output) or ""
            )
        case "reasoning":
            parts = item.content if isinstance(item.content, list) else []
            return Message(
                role="assistant", reasoning_content="".join(part.text for part in parts) or None
            )
    raise UnreadableError(f"an item of type {item.type!r} cannot be told as a turn")


def _content(content: str | list[_Part] | None) -> str | tuple[ContentPart, ...] | None:
    if not isinstance(content, list):
        return content
    return text_of([_part(part) for part in content])


def _part(part: _Part) -> ContentPart:
    if part.type in ("input_image", "input_file"):
        return ContentPart(type="image_url" if part.type == "input_image" else "file")
    return ContentPart(text=part.text or part.refusal)


def _together(turn: Message, more: Message) -> Message:
    """Two items of one turn."""
    return replace(
        turn,
        content=more.content if turn.content is None else _both(turn.content, more.content),
        tool_calls=(turn.tool_calls or ()) + (more.tool_calls or ()) or None,
        reasoning_content=more.reasoning_content or turn.reasoning_content,
    )


def _both(
    content: str | tuple[ContentPart, ...], more: str | tuple[ContentPart, ...] | None
) -> str | tuple[ContentPart, ...]:
    if more is None:
        return content
    return text_of((*_parts(content), *_parts(more)))


def _parts(content: str | tuple[ContentPart, ...]) -> tuple[ContentPart, ...]:
    return (ContentPart(text=content),) if isinstance(content, str) else content


def _as_chat(tool: _Tool) -> Tool:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function | {"parameters": tool.parameters or {}}}


def _read(body: bytes, *, is_stream: bool) -> _Answer:
    if not is_stream:
        return decode(_answer_decoder, body, "answer")
    last = _Event()
    for data in events(body):
        if b'"response"' in data:
            last = decode(_event_decoder, data, "answer")
    if last.response is None:
        raise UnreadableError("answer: the stream has not ended")
    return last.response


def _answered(answer: _Answer, max_output_tokens: int | None) -> Answered:
    turns = _turns(answer.output)
    if answer.status not in ("completed", "incomplete") or len(turns) > 1:
        raise UnreadableError(f"answer: its status is {answer.status!r}")
    message = turns[0] if turns else Message(role="assistant")
    usage = answer.usage or _Usage()
    return Answered(
        message=message,
        finish_reason=_finish_reason(answer, message, max_output_tokens),
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        id=as_id(answer.id),
    )


def _finish_reason(answer: _Answer, message: Message, max_output_tokens: int | None) -> str:
    """llama-server calls an answer that was cut at its limit `completed`."""
    details, usage = answer.incomplete_details, answer.usage
    if answer.status == "incomplete":
        is_cut = details is None or details.reason in (None, "max_output_tokens")
        return "length" if is_cut else "content_filter"
    came = usage.output_tokens if usage is not None else None
    if max_output_tokens is not None and came is not None and came >= max_output_tokens:
        return "length"
    return "tool_calls" if message.tool_calls else "stop"
