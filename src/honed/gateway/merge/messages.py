"""Anthropic's `/v1/messages`: content in blocks, which become turns, calls and results of tools.

The request is told as llama-server rewrites it for the chat template, so that what is learned from is
what the model was asked: a turn's text comes before the results of tools in the same turn.
"""

from collections.abc import Iterator
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

_FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}


class _Block(Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str | None = None
    name: str = ""
    input: Any = None
    tool_use_id: str | None = None
    content: "str | list[_Block] | None" = None


class _Turn(Struct):
    role: Role
    content: str | list[_Block] | None = None


class _Tool(Struct):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class _Body(Struct):
    messages: list[_Turn]
    system: str | list[_Block] | None = None
    tools: list[_Tool] | None = None
    model: str | None = None


class _Usage(Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None


class _Answer(Struct):
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: _Usage | None = None
    id: Any = None


class _Delta(Struct):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(Struct):
    type: str = ""
    index: int = 0
    message: _Answer | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


_body_decoder: Final = msgspec.json.Decoder(_Body)
_answer_decoder: Final = msgspec.json.Decoder(_Answer)
_event_decoder: Final = msgspec.json.Decoder(_Event)


def read_call(request: bytes, answer: bytes, *, is_stream: bool) -> tuple[Asked, Answered]:
    """What was asked and answered; raises UnreadableError."""
    told = _put_together(answer) if is_stream else decode(_answer_decoder, answer, "answer")
    return with_opening(_read_asked(request), _answered(told), is_repeated=not is_stream)


def _read_asked(request: bytes) -> Asked:
    body = decode(_body_decoder, request, "request")
    messages = [message for turn in body.messages for message in _messages_of(turn)]
    if body.system is not None:
        system = body.system if isinstance(body.system, str) else _joined(body.system)
        messages.insert(0, Message(role="system", content=system))
    return Asked(
        messages=tuple(messages),
        tools=tuple(_as_openai(tool) for tool in body.tools) if body.tools else None,
        model=body.model,
    )


def _messages_of(turn: _Turn) -> Iterator[Message]:
    if not isinstance(turn.content, list):
        if turn.content is not None or turn.role != "assistant":
            yield Message(role=turn.role, content=turn.content)
        return
    parts = tuple(_part(block) for block in turn.content if block.type in ("text", "image"))
    calls = tuple(_call(block) for block in turn.content if block.type == "tool_use")
    thinking = "".join(block.thinking for block in turn.content)
    if parts or calls or thinking:
        yield Message(
            role=turn.role,
            content=text_of(parts) if parts else "",
            tool_calls=calls or None,
            reasoning_content=thinking or None,
        )
    for block in turn.content:
        if block.type == "tool_result":
            yield Message(role="tool", tool_call_id=block.tool_use_id, content=_result(block))


def _part(block: _Block) -> ContentPart:
    return ContentPart(text=block.text) if block.type == "text" else ContentPart(type="image_url")


def _call(block: _Block) -> ToolCall:
    told = block.input
    arguments = told if isinstance(told, str) else msgspec.json.encode(told or {}).decode()
    return ToolCall(id=block.id, function=FunctionCall(name=block.name, arguments=arguments))


def _result(block: _Block) -> str | tuple[ContentPart, ...]:
    if not isinstance(block.content, list):
        return block.content or ""
    if any(each.type == "image" for each in block.content):
        return tuple(_part(each) for each in block.content if each.type in ("text", "image"))
    return _joined(block.content)


def _joined(blocks: list[_Block]) -> str:
    return "".join(block.text for block in blocks if block.type == "text")


def _as_openai(tool: _Tool) -> Tool:
    function = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": tool.input_schema or {},
    }
    return {"type": "function", "function": function}


def _answered(answer: _Answer) -> Answered:
    if answer.stop_reason is None:
        raise UnreadableError("answer: no stop_reason")
    blocks = answer.content
    usage = answer.usage or _Usage()
    read = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    return Answered(
        message=Message(
            role="assistant",
            content=_joined(blocks) or None,
            reasoning_content="".join(block.thinking for block in blocks) or None,
            tool_calls=tuple(_call(block) for block in blocks if block.type == "tool_use") or None,
        ),
        finish_reason=_FINISH.get(answer.stop_reason, answer.stop_reason),
        # what the prompt cache had is counted by itself
        prompt_tokens=sum(n or 0 for n in read) if usage.input_tokens is not None else None,
        completion_tokens=usage.output_tokens,
        id=as_id(answer.id),
    )


class _Pieces:
    """A block that arrives in pieces."""

    def __init__(self, block: _Block) -> None:
        self._block = block
        self._texts, self._thoughts, self._inputs = [block.text], [block.thinking], [""]

    def add(self, delta: _Delta) -> None:
        """Take in one piece."""
        self._texts.append(delta.text)
        self._thoughts.append(delta.thinking)
        self._inputs.append(delta.partial_json)

    def whole(self) -> _Block:
        """The block put together, a call's arguments as they were told."""
        return replace(
            self._block,
            text="".join(self._texts),
            thinking="".join(self._thoughts),
            input="".join(self._inputs) or self._block.input,
        )


def _put_together(body: bytes) -> _Answer:
    """The answer that a stream of events told."""
    answer = _Answer()
    blocks: dict[int, _Pieces] = {}
    for data in events(body):
        event = decode(_event_decoder, data, "answer")
        answer = event.message or answer
        if event.content_block is not None:
            blocks[event.index] = _Pieces(event.content_block)
        elif event.delta is not None and event.type == "content_block_delta":
            blocks.setdefault(event.index, _Pieces(_Block(type="text"))).add(event.delta)
        elif event.delta is not None:
            answer.stop_reason = event.delta.stop_reason
        if event.usage is not None:
            usage = answer.usage or _Usage()
            answer.usage = replace(usage, output_tokens=event.usage.output_tokens)
    answer.content = [blocks[index].whole() for index in sorted(blocks)]
    return answer
