"""Conversations as they stand in a data file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honed.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a data file."""

    messages: list[dict[str, Any]]
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


def read_examples(path: Path) -> list[Example]:
    """The conversations of a JSON lines file `{"messages": [...], "tools": [...], "trained_turns":
    [...]}`.

    Raises:
        TrainingError: a line cannot be read; the message has its number.
    """
    examples = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                examples.append(_example(line, f"{path}:{number}"))
    except OSError as error:
        raise TrainingError(f"training file {path} cannot be read: {error.strerror}") from error
    return examples


def _example(line: str, where: str) -> Example:
    try:
        data = json.loads(line)
        messages = [dict(message) for message in data["messages"]]
        roles = [message["role"] for message in messages]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{where} is not a conversation: {type(error).__name__}: {error}",
            advice='each line is an object with "messages": turns with "role" and "content"',
        ) from error
    turns = data.get("trained_turns")
    trained = None if turns is None else frozenset(turns) & set(range(len(roles)))
    return Example(messages, data.get("tools") or None, trained)
