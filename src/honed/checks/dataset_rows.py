"""Rows of a dataset file: which form each has, its turns, and what tells it from others.

Forms: `messages` or `conversations` with role/content or from/value; instruction/input/output; a text field;
prompt with completion; prompt with chosen and rejected.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from honed.errors import ValidationError

Turn = dict[str, Any]

FORMAT_STEP: Final = (
    'convert to conversations in the format step: {"messages": [{"role", "content"}, ...]}, one row a line'
    " (`honed export FILE --format sft` writes them)"
)
_SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
_TURNS: Final = ("messages", "conversations")
_GROUP: Final = ("group_id", "task_id")
_LANGUAGE: Final = ("language", "lang")


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that is no row."""

    line: int
    """From 1."""
    kind: str
    """`parse` or `fields`."""
    text: str


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One row."""

    line: int
    """From 1."""
    form: str
    """`messages`, `sharegpt`, `instruction`, `text`, `completion`, `preference`."""
    turns: tuple[Turn, ...]
    """In OpenAI's form; empty for preformatted text."""
    tools: list[Turn] | None
    trained_turns: list[int] | None
    """Indexes of the assistant's turns that count; None: all."""
    digest: str
    """Of all that is said; white space does not count."""
    opening: str
    """The same of what stands before the first answer."""
    num_characters: int
    groups: frozenset[str]
    """`group_id:...` and `task_id:...`."""
    language: str | None
    source: str | None
    category: str | None

    def without_turns(self) -> "DatasetRow":
        """The row without what it says, for those who keep many."""
        return replace(self, turns=(), tools=None)


class _NoRowError(Exception):
    """Why a line is no row."""


def read_rows(path: Path, *, text_field: str = "text") -> Iterator[DatasetRow | Fault]:
    """The rows of a JSON lines file; blank lines are skipped.

    Raises:
        ValidationError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row_or_fault(number, line, text_field)
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error


def _row_or_fault(number: int, line: bytes, text_field: str) -> DatasetRow | Fault:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Fault(number, "parse", f"no JSON: {error}")
    if not isinstance(data, dict):
        return Fault(number, "parse", f"{type(data).__name__} where an object was expected")
    try:
        return _row(number, data, text_field)
    except _NoRowError as error:
        return Fault(number, "fields", str(error))


def _row(number: int, data: Mapping[str, Any], text_field: str) -> DatasetRow:
    form, read = _form(data, text_field)
    turns = tuple(read(data))
    said = [_said(turn) for turn in turns] or [str(data[text_field])]
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    return DatasetRow(
        line=number,
        form=form,
        turns=turns,
        tools=data.get("tools") or None,
        trained_turns=data.get("trained_turns"),
        digest=_digest(said),
        opening=_digest(said[: answers[0]] if answers else said),
        num_characters=sum(map(len, said)),
        groups=frozenset(f"{key}:{value}" for key in _GROUP if (value := _told(data, key))),
        language=next((value for key in _LANGUAGE if (value := _told(data, key))), None),
        source=_told(data, "source"),
        category=_told(data, "category"),
    )


def _form(
    data: Mapping[str, Any], text_field: str
) -> tuple[str, Callable[[Mapping[str, Any]], Iterator[Turn]]]:
    for key in _TURNS:
        if isinstance(turns := data.get(key), list):
            is_sharegpt = any(isinstance(turn, dict) and "from" in turn for turn in turns)
            return "sharegpt" if is_sharegpt else "messages", partial(_keyed, key)
    if "instruction" in data:
        return "instruction", _instruction
    if "chosen" in data or "rejected" in data:
        return "preference", lambda row: _sides(row, "prompt", "chosen", "rejected")
    if "prompt" in data:
        return "completion", lambda row: _sides(row, "prompt", "completion")
    if isinstance(data.get(text_field), str) and data[text_field].strip():
        return "text", lambda row: iter(())
    has = ", ".join(sorted(map(str, data))[:6]) or "none"
    raise _NoRowError(
        f"none of the fields messages, conversations, instruction, prompt, {text_field}; it has {has}"
    )


def _keyed(key: str, data: Mapping[str, Any]) -> Iterator[Turn]:
    return _turns(data[key], key)


def _turns(turns: list[Any], key: str) -> Iterator[Turn]:
    answers = 0
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise _NoRowError(f"{key}[{i}] is no object")
        named = turn.get("role", turn.get("from"))
        if named == "function_call":
            turn, named = {"tool_calls": [_call(turn.get("value"), f"{key}[{i}]")]}, "assistant"
        role = _SPEAKERS.get(named) if isinstance(named, str) else None
        if role is None:
            raise _NoRowError(f"{key}[{i}] has the role {named!r}")
        content = turn.get("content", turn.get("value"))
        if not content and not turn.get("tool_calls") and role != "tool":
            raise _NoRowError(f"{key}[{i}] has no content")
        if content is not None and not isinstance(content, str | list):
            raise _NoRowError(f"content of {key}[{i}] is no text")
        answers += role == "assistant"
        others = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "value")}
        yield {"role": role, "content": content, **others}
    if not answers:
        raise _NoRowError(f"{key} has no turn of the assistant")


def _call(value: Any, where: str) -> dict[str, Any]:
    """A call that stands as JSON text in a turn of its own."""
    try:
        called = json.loads(value)
        arguments = called.get("arguments", {})
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"type": "function", "function": {"name": called["name"], "arguments": text}}
    except (TypeError, ValueError, KeyError, AttributeError):
        raise _NoRowError(f"{where} is no call: expected {{name, arguments}} as JSON") from None


def _instruction(data: Mapping[str, Any]) -> Iterator[Turn]:
    """With an empty input the instruction is the user's turn."""
    instruction, given = data["instruction"], data.get("input") or ""
    output = data.get("output", data.get("response"))
    for name, text in (("instruction", instruction), ("output", output)):
        if not isinstance(text, str) or not text.strip():
            raise _NoRowError(f"the field {name} is missing or empty")
    if not isinstance(given, str):
        raise _NoRowError("the field input is no text")
    if given.strip():
        yield {"role": "system", "content": instruction}
        yield {"role": "user", "content": given}
    else:
        yield {"role": "user", "content": instruction}
    yield {"role": "assistant", "content": output}


def _sides(data: Mapping[str, Any], *names: str) -> Iterator[Turn]:
    """Prompt and answers, each a text or turns."""
    for name in names:
        side = data.get(name)
        if isinstance(side, str) and side.strip():
            yield {"role": "user" if name == "prompt" else "assistant", "content": side}
        elif isinstance(side, list) and side and name == "prompt":
            yield from _prompt_turns(side)
        elif isinstance(side, list) and side:
            yield from _turns(side, name)
        else:
            raise _NoRowError(f"the field {name} is missing or empty")


def _prompt_turns(turns: list[Any]) -> Iterator[Turn]:
    """A prompt needs no answer."""
    answered = [*turns, {"role": "assistant", "content": "-"}]
    yield from list(_turns(answered, "prompt"))[:-1]


def _told(data: Mapping[str, Any], key: str) -> str | None:
    """A tag of the row itself, else of its metadata."""
    for place in (data, data.get("metadata")):
        if isinstance(place, dict) and isinstance(value := place.get(key), str | int) and value:
            return str(value)
    return None


def _said(turn: Turn) -> str:
    content = turn["content"] or ""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    calls = turn.get("tool_calls")
    called = json.dumps(calls, sort_keys=True) if calls else ""
    return f"{turn['role']}: {text}{called}"


def _digest(said: list[str]) -> str:
    return hashlib.sha256("\n".join(" ".join(text.split()) for text in said).encode()).hexdigest()
