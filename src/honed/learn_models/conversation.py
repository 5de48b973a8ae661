"""Puts the calls of one attempt together into conversations.

A chat client sends the whole history with every call. So a call whose messages begin with an
earlier call's messages and its answer continues that conversation; any other call starts one, and
is counted with the reason. Clients echo answers in their own way (other ids, arguments as text or
object, no reasoning), so turns are compared by what they say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, NamedTuple

import msgspec

from honed.domain.message import Message, Tool
from honed.domain.records import LlmCallRecord

RESAMPLED: Final = "the same prompt was asked again"
CHANGED: Final = "the history was changed"
UNRELATED: Final = "another conversation began"


class Turn(NamedTuple):
    """A message and whether it may be imitated."""

    message: Message
    is_trained: bool
    reason: str | None = None
    """Why a turn of the assistant may not be imitated."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns from the first message that was sent to the last answer."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] | None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns without their marks."""
        return tuple(turn.message for turn in self.turns)

    @property
    def trained_turns(self) -> tuple[int, ...]:
        """Indexes of the turns to imitate; a turn that opens the conversation answers nothing."""
        return tuple(i for i, turn in enumerate(self.turns) if i and turn.is_trained)


@dataclass(frozen=True, slots=True)
class Assembly:
    """The conversations of one attempt, and why there is more than one."""

    conversations: tuple[Conversation, ...]
    """In the order in which they began."""
    forks: dict[str, int]
    """Reason to number of calls that continued no earlier conversation, the first one left out."""
    num_failed: int
    """Calls with an error or without an answer; ignored."""

    @property
    def longest(self) -> Conversation | None:
        """The longest conversation with a turn to imitate, the later one of equals."""
        longest: Conversation | None = None
        for conversation in self.conversations:
            if not conversation.trained_turns:
                continue
            if longest is None or len(conversation.turns) >= len(longest.turns):
                longest = conversation
        return longest


@dataclass(slots=True)
class _Open:
    """A conversation that may still go on."""

    turns: list[Turn]
    keys: list[object]
    tools: tuple[Tool, ...] | None


@dataclass(slots=True)
class _Desk:
    """Conversations while calls are sorted into them."""

    refused: dict[str, list[tuple[object, str]]]
    """By its text, what an answer says that may not be imitated, and why it may not."""
    open: list[_Open] = field(default_factory=list)
    forks: dict[str, int] = field(default_factory=dict)

    def add(self, call: LlmCallRecord) -> None:
        sent, answer = sent_by(call), answer_of(call)
        keys = [key_of(message) for message in sent]
        reason = _why_not(call)
        continued = [c for c in self.open if keys[: len(c.keys)] == c.keys]
        conversation = max(continued, key=_length) if continued else self._begin(keys)
        known = len(conversation.keys)
        for message, key in zip(sent[known:], keys[known:], strict=True):
            is_answer = message.role == "assistant"
            why_not = reason or (self._refusal(message, key, conversation) if is_answer else None)
            conversation.turns.append(Turn(message, is_answer and why_not is None, why_not))
        conversation.turns.append(Turn(answer, reason is None, reason))
        conversation.keys += [*keys[known:], key_of(answer)]
        conversation.tools = call.tools or conversation.tools

    def _refusal(self, message: Message, key: object, conversation: _Open) -> str | None:
        """Why a turn of a history that was sent may not be imitated: it echoes an answer that may not.

        A client may send such an answer again inside a history that it has changed otherwise. Where that answer's own
        turn is in the conversation already, another turn with the same words is no echo of it.
        """
        refused = [why for said, why in self.refused.get(message.text.strip(), ()) if said == key]
        if not refused:
            return None
        before = zip(conversation.turns, conversation.keys, strict=False)
        known = sum(turn.reason is not None and said == key for turn, said in before)
        return refused[0] if len(refused) > known else None

    def _begin(self, keys: list[object]) -> _Open:
        """A new conversation that shares its first turns, marks and all, with the closest one."""
        if not self.open:
            self.open.append(_Open([], [], None))
            return self.open[-1]
        closest = max(self.open, key=lambda c: _num_shared(keys, c.keys))
        shared = _num_shared(keys, closest.keys)
        if all(turn.message.role in ("system", "developer") for turn in closest.turns[:shared]):
            reason = UNRELATED
        else:
            reason = RESAMPLED if shared == len(keys) else CHANGED
        self.forks[reason] = self.forks.get(reason, 0) + 1
        self.open.append(_Open(closest.turns[:shared], keys[:shared], None))
        return self.open[-1]


def assemble(calls: Sequence[LlmCallRecord]) -> Assembly:
    """Sort calls, in order of arrival, into conversations."""
    usable = [call for call in calls if call.is_success and sent_by(call)]
    desk = _Desk({})
    for call in usable:
        if reason := _why_not(call):
            answer = answer_of(call)
            said = desk.refused.setdefault(answer.text.strip(), [])
            said.append((key_of(answer), reason))
    for call in usable:
        desk.add(call)
    return Assembly(
        conversations=tuple(Conversation(tuple(c.turns), c.tools) for c in desk.open),
        forks=desk.forks,
        num_failed=len(calls) - len(usable),
    )


def _why_not(call: LlmCallRecord) -> str | None:
    """Why what a call brought in may not be imitated."""
    if not call.train:
        return "its sender asked not to train on it (train: false)"
    if call.purpose != "work":
        return f"it was no work but {call.purpose}"
    return None if call.trust == "trusted" else f"its sender is {call.trust}"


def sent_by(call: LlmCallRecord) -> tuple[Message, ...]:
    """The messages that a call sent; its prompt when only that is known."""
    if call.messages is not None:
        return call.messages
    return (Message(role="user", content=call.prompt),) if call.prompt else ()


def answer_of(call: LlmCallRecord) -> Message:
    """The turn that a call brought back."""
    if call.response_message is None or call.response_message.is_empty:
        return Message(role="assistant", content=call.response)
    return msgspec.structs.replace(call.response_message, role="assistant")


def _length(conversation: _Open) -> int:
    return len(conversation.keys)


def _num_shared(a: Sequence[object], b: Sequence[object]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def key_of(message: Message) -> object:
    """What a turn says, however it is written."""
    role = "system" if message.role == "developer" else message.role
    parts = message.content if isinstance(message.content, tuple) else ()
    others = tuple(part for part in parts if part.type != "text")
    calls = tuple(
        (call.function.name, _arguments(call.function.arguments))
        for call in message.tool_calls or ()
    )
    return role, message.text.strip(), others, calls


def _arguments(arguments: str | dict[str, Any]) -> object:
    if isinstance(arguments, dict):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments.strip()
