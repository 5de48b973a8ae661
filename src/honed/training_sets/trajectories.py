"""Attempts that other systems wrote down, and the events that they become.

A trajectory becomes one call with the whole conversation and one outcome, which closes the attempt:
`unknown` where nobody has said how it ended. Where a row marks leading turns as given, those are a
call of their own whose answer is not trusted: they are read, never imitated. The ids of events come
from their content, so that importing a file twice adds nothing.
"""

import hashlib
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from honed.domain.events import Event, LlmCallEvent, OutcomeEvent, format_event
from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome, Unknown

SOURCE: Final = "import"
"""What imported outcomes name as their source."""


class Trajectory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a row says about one attempt."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] | None = None
    num_context: int = 0
    """Leading turns that were given, not answered: never imitated."""
    outcome: Outcome = Unknown()
    task_id: str | None = None
    """The attempt; None makes one of the content."""
    group_id: str | None = None
    model: str = ""
    timestamp_ms: int | None = None
    finish_reason: str | None = None
    tags: dict[str, str] = {}


class ImportedTrajectory(NamedTuple):
    """One attempt, ready for the feed."""

    task_id: str
    group_id: str | None
    calls: tuple[bytes, ...]
    """Events as JSON, without newlines: the call, before it the one that is only context."""
    outcome: bytes
    """The event that closes the attempt."""
    num_dropped: int
    """Turns after the last assistant turn; nobody answered them."""

    @property
    def lines(self) -> tuple[bytes, ...]:
        """All events in their order."""
        return (*self.calls, self.outcome)


def events_of(told: Trajectory) -> ImportedTrajectory:
    """The events of an attempt.

    Raises:
        ValueError: no turn is the assistant's, or nothing precedes it.
    """
    last = _last_answer(told.messages)
    if last is None or last < told.num_context:
        raise ValueError(
            f"no turn of {len(told.messages)} is the assistant's: nothing to learn from"
        )
    if last == 0:
        raise ValueError("the assistant's turn answers nothing: no turn precedes it")
    turns = told.messages[: last + 1]
    content = _content(turns, told.tools)
    group_id = told.group_id
    task_id = told.task_id or _digest(_deterministic(told), size=8)
    extras = _extras(told)
    calls = [
        _call(told, "call", task_id, turns, content + extras, finish_reason=told.finish_reason)
    ]
    if context := _last_answer(told.messages[: told.num_context]):
        given = turns[: context + 1]
        id_content = _content(given, told.tools) + extras
        calls.insert(0, _call(told, "context", task_id, given, id_content, trust="untrusted"))
    outcome = OutcomeEvent(
        event_id=_event_id(
            "outcome", task_id, group_id, content, msgspec.json.encode(told.outcome)
        ),
        task_id=task_id,
        group_id=group_id,
        outcome=told.outcome,
        source=SOURCE,
    )
    return ImportedTrajectory(
        task_id=task_id,
        group_id=group_id,
        calls=tuple(map(format_event, calls)),
        outcome=format_event(outcome),
        num_dropped=len(told.messages) - len(turns),
    )


def content_digest(messages: tuple[Message, ...], tools: tuple[Tool, ...] | None) -> str:
    """A name for what is said up to the assistant's last turn."""
    last = _last_answer(messages)
    turns = messages if last is None else messages[: last + 1]
    return _digest(_content(turns, tools), size=8)


def prompt_group(prompt: tuple[Message, ...], tools: tuple[Tool, ...] | None) -> str:
    """The group of all attempts at one prompt: they may be compared, and are never split."""
    return f"prompt-{_digest(_content(prompt, tools), size=8)}"


def opening_group(messages: tuple[Message, ...], tools: tuple[Tool, ...] | None) -> str:
    """The group of all conversations that are equal up to the assistant's first turn."""
    first = next((i for i, turn in enumerate(messages) if turn.role == "assistant"), None)
    return prompt_group(messages[:first], tools)


def _last_answer(messages: tuple[Message, ...]) -> int | None:
    return max((i for i, turn in enumerate(messages) if turn.role == "assistant"), default=None)


def _call(
    told: Trajectory,
    kind: str,
    task_id: str,
    turns: tuple[Message, ...],
    id_content: bytes,
    **fields: Any,
) -> Event:
    return LlmCallEvent(
        event_id=_event_id(kind, task_id, told.group_id, id_content),
        task_id=task_id,
        group_id=told.group_id,
        model=told.model,
        messages=turns[:-1],
        tools=told.tools or None,
        response_message=turns[-1],
        timestamp_ms=told.timestamp_ms,
        tags=told.tags,
        **fields,
    )


def _extras(told: Trajectory) -> bytes:
    """What the call says besides its turns; empty for the forms that say nothing more."""
    extras = {
        "model": told.model,
        "timestamp_ms": told.timestamp_ms,
        "finish_reason": told.finish_reason,
        "tags": told.tags,
    }
    given = {name: value for name, value in extras.items() if value}
    return _deterministic(given) if given else b""


def _content(turns: tuple[Message, ...], tools: tuple[Tool, ...] | None) -> bytes:
    return _deterministic([turns, tools or None])


def _deterministic(value: object) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _digest(content: bytes, *, size: int) -> str:
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _event_id(kind: str, task_id: str, group_id: str | None, *content: bytes) -> str:
    names = msgspec.json.encode([kind, task_id, group_id])
    return f"import-{_digest(names + b''.join(content), size=16)}"
