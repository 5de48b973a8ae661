"""What all protocols come down to: what was asked, what was answered, and how both are read."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from honed.domain.message import ContentPart, Message, Tool

T = TypeVar("T")


class Asked(Struct, frozen=True, kw_only=True):
    """The part of a request that is kept."""

    messages: tuple[Message, ...] | None = None
    """The conversation; None where only a text was sent."""
    tools: tuple[Tool, ...] | None = None
    model: str | None = None
    prompt: str | None = None
    """The text, where that was all."""


class Answered(Struct, frozen=True, kw_only=True):
    """What came back."""

    message: Message
    finish_reason: str
    """In OpenAI's words: stop, length, tool_calls."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    id: str | None = None
    """The answer's, as the model server gave it."""
    token_ids: tuple[int, ...] | None = None
    """The tokens that were sampled, without the one that ends a streamed turn; None when they were
    not asked for, or not told completely.
    """
    logprobs: tuple[float, ...] | None = None
    """Of each of them."""


class UnreadableError(Exception):
    """The exchange is not a finished call that can be kept."""


class ReadCall(Protocol):
    """Reads the exchange of one protocol."""

    def __call__(self, request: bytes, answer: bytes, *, is_stream: bool) -> tuple[Asked, Answered]:
        """What was asked and answered; raises UnreadableError."""


def decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """The body as `decoder` reads it; `what` names it in the UnreadableError."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableError(f"{what}: {error}") from error


def events(body: bytes) -> Iterator[bytes]:
    """The data of server-sent events; each is one line, as all these protocols have it."""
    for line in body.splitlines():
        if line.startswith(b"data:") and (data := line[5:].strip()) and data != b"[DONE]":
            yield data


def as_id(answer_id: Any) -> str | None:
    """The answer's id, if it is one."""
    return answer_id if isinstance(answer_id, str) else None


def text_of(parts: Sequence[ContentPart]) -> str | tuple[ContentPart, ...]:
    """Content as short as it can be told: one text by itself, anything else in parts."""
    if len(parts) == 1 and parts[0].type == "text":
        return parts[0].text or ""
    return tuple(parts)


def with_opening(asked: Asked, answered: Answered, *, is_repeated: bool) -> tuple[Asked, Answered]:
    """The exchange with the opening of the answer where it belongs.

    llama-server goes on with a last turn that is the assistant's; what it answers is the rest of that
    turn. A whole answer repeats the opening, a stream begins behind it.
    """
    opening = asked.messages[-1] if asked.messages else None
    if opening is None or opening.role != "assistant" or opening.tool_calls or not opening.text:
        return asked, answered
    message = answered.message
    text = message.text if is_repeated else opening.text + message.text
    if not text.startswith(
        opening.text
    ):  # the server has read it as something else, such as a call
        text = message.text
    asked = replace(asked, messages=asked.messages[:-1] if asked.messages else None)
    content = text if text or not message.tool_calls else None
    return asked, replace(answered, message=replace(message, content=content))
