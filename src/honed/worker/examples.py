"""The lines of a data file: conversations, pairs of answers, answers with a label.

What a line is, its keys say: `messages` (or `conversations`, whose turns may be from/value), or `prompt` with `chosen`
and `rejected`, or `prompt` with `completion` and `label`. The last two become conversations too, of which the turns
behind the prompt count.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from honed.errors import TrainingError

Turns = list[dict[str, Any]]
_SPEAKERS: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""The role of who speaks in a from/value turn; calls of tools in that form are for `honed import`."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation."""

    messages: Turns
    """Turns in OpenAI's form."""
    tools: list[dict[str, Any]] | None = None
    trained_turns: frozenset[int] | None = None
    """Indexes of the assistant turns that count; None means all."""

    @property
    def targets(self) -> list[int]:
        """Indexes of the turns to learn from. A turn that opens the conversation answers nothing
        and is not one.
        """
        return [
            i
            for i, message in enumerate(self.messages)
            if i > 0
            and message["role"] == "assistant"
            and (self.trained_turns is None or i in self.trained_turns)
        ]


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that begin alike; what counts is what was answered."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class Labelled:
    """A conversation whose answer is good or bad."""

    answered: Example
    is_good: bool


Lesson = Example | Preference | Labelled


def read_examples(path: Path) -> list[Example]:
    """The conversations of a JSON lines file `{"messages": [...], "tools": [...], "trained_turns":
    [...]}`.

    Raises:
        TrainingError: a line cannot be read; the message has its number.
    """
    return _read(path, _example, "a conversation", '"messages": turns with "role" and "content"')


def read_lessons(path: Path) -> list[Lesson]:
    """The lines of a JSON lines file, each by what it holds.

    Raises:
        TrainingError: a line cannot be read; the message has its number.
    """
    return _read(
        path,
        _lesson,
        "a line to learn from",
        '"messages"; or "prompt", "chosen" and "rejected"; or "prompt", "completion" and "label"; all but the label '
        'turns with "role" and "content"',
    )


def _read(path: Path, read: Callable[[dict[str, Any]], _T], what: str, form: str) -> list[_T]:
    found = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    found.append(read(json.loads(line)))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise TrainingError(
                        f"{path}:{number} is not {what}: {type(error).__name__}: {error}",
                        advice=f"each line is an object with {form}",
                    ) from error
    except OSError as error:
        raise TrainingError(f"training file {path} cannot be read: {error.strerror}") from error
    return found


def _lesson(data: dict[str, Any]) -> Lesson:
    if "messages" in data or "conversations" in data:
        return _example(data)
    if "chosen" in data:
        return Preference(_answered(data, "chosen"), _answered(data, "rejected"))
    if not isinstance(data["label"], bool):
        raise ValueError(f"label is {data['label']!r}: expected true or false")
    return Labelled(_answered(data, "completion"), data["label"])


def _example(data: dict[str, Any]) -> Example:
    messages = _turns(data, "messages" if "messages" in data else "conversations")
    turns = data.get("trained_turns")
    trained = None if turns is None else frozenset(turns) & set(range(len(messages)))
    return Example(messages, data.get("tools") or None, trained)


def _answered(data: dict[str, Any], key: str) -> Example:
    """The prompt and one answer to it, of which the answer counts."""
    prompt, answer = _turns(data, "prompt"), _turns(data, key)
    whole = range(len(prompt), len(prompt) + len(answer))
    return Example([*prompt, *answer], data.get("tools") or None, frozenset(whole))


def _turns(data: dict[str, Any], key: str) -> Turns:
    """Raises KeyError for a turn without a role, or with one that has no name here."""
    return [_turn(message) for message in data[key]]


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if "role" not in message and "from" in message:
        return {"role": _SPEAKERS[message["from"]], "content": message["value"]}
    return {"role": message["role"]} | message
