"""From what went over the wire to what was said: a request and its answer, streamed or not, as one
call. Pure.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from honed.domain.message import FunctionCall, Message, Tool, ToolCall


class Asked(Struct, frozen=True):
    """The part of a chat request that is kept."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None = None
    model: str | None = None


class Answered(Struct, frozen=True, kw_only=True):
    """What came back."""

    message: Message
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    id: str | None = None
    """The answer's, as the model server gave it."""


class UnreadableError(Exception):
    """The exchange is not a finished chat completion that can be kept."""


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCallDelta(Struct):
    index: int = 0
    id: str | None = None
    function: _FunctionDelta | None = None


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    message: Message | None = None
    finish_reason: str | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    id: Any = None


_asked_decoder = msgspec.json.Decoder(Asked)
_chunk_decoder = msgspec.json.Decoder(_Chunk)


def read_asked(body: bytes) -> Asked:
    """Read a chat request; raises UnreadableError."""
    try:
        return _asked_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"request: {error}") from error


def read_answered(body: bytes, *, is_stream: bool) -> Answered:
    """Read the answer, its first choice; deltas of a stream are put together; raises
    UnreadableError.
    """
    try:
        return _read_stream(body) if is_stream else _read_whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"answer: {error}") from error


def _read_whole(body: bytes) -> Answered:
    chunk = _chunk_decoder.decode(body)
    choice = next((choice for choice in chunk.choices if choice.index == 0), None)
    if choice is None or choice.message is None or choice.finish_reason is None:
        raise UnreadableError("answer: no finished choice")
    return _answered(choice.message, choice.finish_reason, chunk.usage, chunk.id)


def _read_stream(body: bytes) -> Answered:
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, _ToolCallParts] = {}
    finish_reason: str | None = None
    usage: _Usage | None = None
    answer_id: Any = None
    for data in _events(body):
        chunk = _chunk_decoder.decode(data)
        usage = chunk.usage or usage
        answer_id = answer_id or chunk.id
        for choice in chunk.choices:
            if choice.index != 0:
                continue
            finish_reason = choice.finish_reason or finish_reason
            if delta := choice.delta:
                content.append(delta.content or "")
                reasoning.append(delta.reasoning_content or "")
                for call in delta.tool_calls or ():
                    calls.setdefault(call.index, _ToolCallParts()).add(call)
    if finish_reason is None:
        raise UnreadableError("answer: the stream has no finish_reason")
    message = Message(
        role="assistant",
        content="".join(content) or None,
        reasoning_content="".join(reasoning) or None,
        tool_calls=tuple(calls[i].whole() for i in sorted(calls)) or None,
    )
    return _answered(message, finish_reason, usage, answer_id)


def _answered(
    message: Message, finish_reason: str, usage: _Usage | None, answer_id: Any
) -> Answered:
    return Answered(
        message=message,
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        id=answer_id if isinstance(answer_id, str) else None,
    )


def _events(body: bytes) -> Iterator[bytes]:
    """The data of server-sent events; each is one line, as OpenAI's format has it."""
    for line in body.splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()) and data != b"[DONE]":
            yield data


class _ToolCallParts:
    """A tool call that arrives in pieces: id and name once, arguments bit by bit."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._name: list[str] = []
        self._arguments: list[str] = []

    def add(self, delta: _ToolCallDelta) -> None:
        """Take in one piece."""
        self._id = delta.id or self._id
        if delta.function is not None:
            self._name.append(delta.function.name or "")
            arguments = delta.function.arguments
            if isinstance(arguments, dict):
                arguments = msgspec.json.encode(arguments).decode()
            self._arguments.append(arguments or "")

    def whole(self) -> ToolCall:
        """The call put together."""
        arguments = "".join(self._arguments) or "{}"
        return ToolCall(
            id=self._id, function=FunctionCall(name="".join(self._name), arguments=arguments)
        )
