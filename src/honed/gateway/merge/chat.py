"""`/v1/chat/completions`: the form that all others are brought into."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from honed.domain.message import FunctionCall, Message, Tool, ToolCall
from honed.gateway.merge.said import (
    Answered,
    Asked,
    UnreadableError,
    as_id,
    decode,
    events,
    with_opening,
)
from honed.gateway.merge.tokens import Logprobs, TokenTape


class _Turn(Message, frozen=True, kw_only=True):
    """A turn as servers and clients write it."""

    reasoning: str | None = None
    """What vLLM calls `reasoning_content` since 0.11."""

    def as_message(self) -> Message:
        """The same under one name."""
        return Message(
            role=self.role,
            content=self.content,
            tool_calls=self.tool_calls or None,
            tool_call_id=self.tool_call_id,
            name=self.name,
            reasoning_content=self.reasoning_content or self.reasoning,
        )


class _Body(Struct):
    messages: tuple[_Turn, ...]
    tools: tuple[Tool, ...] | None = None
    model: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(Struct):
    """llama-server's own; there also where a stream was not asked for its usage."""

    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


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
    reasoning: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Turn | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    id: Any = None


_body_decoder: Final = msgspec.json.Decoder(_Body)
_chunk_decoder: Final = msgspec.json.Decoder(_Chunk)


def read_call(request: bytes, answer: bytes, *, is_stream: bool) -> tuple[Asked, Answered]:
    """What was asked and answered; raises UnreadableError."""
    answered = read_answered(answer, is_stream=is_stream)
    return with_opening(read_asked(request), answered, is_repeated=not is_stream)


def read_asked(body: bytes) -> Asked:
    """The request; raises UnreadableError."""
    asked = decode(_body_decoder, body, "request")
    messages = tuple(turn.as_message() for turn in asked.messages)
    return Asked(messages=messages, tools=asked.tools, model=asked.model)


def read_answered(body: bytes, *, is_stream: bool) -> Answered:
    """The answer, its first choice; deltas of a stream are put together; raises UnreadableError."""
    return _read_stream(body) if is_stream else _read_whole(body)


def _read_whole(body: bytes) -> Answered:
    chunk = decode(_chunk_decoder, body, "answer")
    choice = next((choice for choice in chunk.choices if choice.index == 0), None)
    if choice is None or choice.message is None or choice.finish_reason is None:
        raise UnreadableError("answer: no finished choice")
    tokens = TokenTape()
    tokens.add(choice.logprobs)
    return _answered(
        choice.message.as_message(), choice.finish_reason, chunk, tokens, is_stream=False
    )


def _read_stream(body: bytes) -> Answered:
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, _ToolCallParts] = {}
    tokens = TokenTape()
    finish_reason: str | None = None
    seen = _Chunk()
    for data in events(body):
        chunk = decode(_chunk_decoder, data, "answer")
        seen.usage, seen.timings = chunk.usage or seen.usage, chunk.timings or seen.timings
        seen.id = seen.id or chunk.id
        for choice in chunk.choices:
            if choice.index != 0:
                continue
            finish_reason = choice.finish_reason or finish_reason
            tokens.add(choice.logprobs)
            if delta := choice.delta:
                content.append(delta.content or "")
                reasoning.append(delta.reasoning_content or delta.reasoning or "")
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
    return _answered(message, finish_reason, seen, tokens, is_stream=True)


def _answered(
    message: Message, finish_reason: str, chunk: _Chunk, tokens: TokenTape, *, is_stream: bool
) -> Answered:
    usage, timings = chunk.usage or _Usage(), chunk.timings
    sent, came = usage.prompt_tokens, usage.completion_tokens
    if timings is not None and came is None:
        sent, came = timings.cache_n + timings.prompt_n, timings.predicted_n
    is_end_missing = is_stream and finish_reason != "length"
    token_ids, logprobs = tokens.whole(came, is_end_missing=is_end_missing)
    return Answered(
        message=message,
        finish_reason=finish_reason,
        prompt_tokens=sent,
        completion_tokens=came,
        id=as_id(chunk.id),
        token_ids=token_ids,
        logprobs=logprobs,
    )


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
