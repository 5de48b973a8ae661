"""Turns in OpenAI's form as foreign rows write them, and what of them cannot be kept."""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from honed.domain.message import Message, Tool

Turns = tuple[Message, ...]


NULL: Final = Raw(b"null")
"""A value that a row does not have."""


class _Beside(Struct):
    """What a turn may carry that honed has no place for."""

    weight: float | None = None
    function_call: Any = None
    audio: Any = None
    refusal: str | None = None


_turns: Final = msgspec.json.Decoder(Turns)
_beside: Final = msgspec.json.Decoder(tuple[_Beside, ...])
_text: Final = msgspec.json.Decoder(str)
_tools: Final = msgspec.json.Decoder(tuple[Tool, ...] | None)


def is_given(raw: Raw) -> bool:
    """Whether there is a value, and it is not null."""
    return raw != NULL


def is_text(raw: Raw) -> bool:
    """Whether the value is JSON text."""
    return bytes(raw).lstrip().startswith(b'"')


def read_text(raw: Raw, path: str) -> str:
    """A text; raises ValueError with the path."""
    try:
        return _text.decode(raw)
    except msgspec.ValidationError as error:
        raise ValueError(placed(error, path)) from None


def read_turns(raw: Raw, path: str) -> Turns:
    """Turns that honed can keep whole.

    Raises:
        ValueError: ill-typed, an unknown role, or content that is not text; with the path.
    """
    try:
        turns = _turns.decode(raw)
        beside = _beside.decode(raw)
    except msgspec.ValidationError as error:
        raise ValueError(placed(error, path)) from None
    for i, (turn, more) in enumerate(zip(turns, beside, strict=True)):
        if reason := _why_not_kept(turn, more):
            raise ValueError(f"{path}[{i}].{reason}")
    return turns


def read_tools(raw: Raw, path: str = "$.tools") -> tuple[Tool, ...] | None:
    """Tools in OpenAI's form, as a list or as its JSON text; None without any.

    A bare function (`name` at the top) is put into `{"type": "function", "function": ...}`.
    """
    if not is_given(raw):
        return None
    try:
        if is_text(raw):
            raw = Raw((_text.decode(raw).strip() or "null").encode())
        tools = _tools.decode(raw)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(placed(error, path)) from None
    return tuple(map(_as_openai, tools)) if tools else None


def require_answers(turns: Turns, path: str) -> None:
    """Refuse assistant turns that say nothing: they can be neither imitated nor shown."""
    for i, turn in enumerate(turns):
        if turn.role == "assistant" and turn.is_empty:
            raise ValueError(
                f"{path}[{i}] is the assistant's and has neither content nor a tool call"
            )


def placed(error: Exception, path: str) -> str:
    """The decoder's words, with the path that the value has in the row."""
    return str(error).replace("`$", f"`{path}") if "`$" in str(error) else f"{path}: {error}"


def _why_not_kept(turn: Message, more: _Beside) -> str | None:
    if isinstance(turn.content, tuple):
        for part in turn.content:
            if part.type != "text":
                return f"content has a part of type {part.type}: expected text alone"
    if more.weight is not None and more.weight != 1:
        return f"weight is {more.weight:g}: expected 1 or none"
    if more.function_call is not None:
        return "function_call is of an older form: expected tool_calls"
    if more.audio is not None:
        return "audio cannot be kept: expected text alone"
    if more.refusal:
        return "refusal is set: the turn is no answer to learn from"
    return None


def _as_openai(tool: Tool) -> Tool:
    if "function" not in tool and "name" in tool:
        return {"type": "function", "function": tool}
    return tool
