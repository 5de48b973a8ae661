"""An episode as a text that a judge reads, between marks that its content cannot guess.

What agents, tools and web pages wrote is data to be judged, never an instruction to the judge: it stands between two
lines with a random mark, and the prompt says so.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from honed.domain.episode import Episode
from honed.domain.message import Message
from honed.domain.records import ActionRecord, LlmCallRecord, records_of

_LEFT_OUT: Final = "\n[... {} characters left out ...]\n"


def transcript(episode: Episode, *, max_chars: int) -> str:
    """What was asked, said and done, without any outcome; of a longer text the middle is left out."""
    parts = [*_conversation(episode), *_actions(episode)]
    text = "\n\n".join(parts) or "(nothing was said or done)"
    if len(text) <= max_chars:
        return text
    head = max_chars // 2
    tail = max_chars - head
    return text[:head] + _LEFT_OUT.format(len(text) - max_chars) + text[-tail:]


def between(mark: str, text: str, *, number: int | None = None) -> str:
    """The text between two lines that hold the mark, and its number if it is one of several.

    The mark cannot be in the text, nor come about by being taken out of it.
    """
    named = f"attempt {number}" if number is not None else "attempt"
    return f"<{named} {mark}>\n{text.replace(mark, '[...]')}\n</{named} {mark}>"


def _conversation(episode: Episode) -> Iterator[str]:
    """The turns of all calls, each once: calls of one conversation repeat each other's turns."""
    seen: set[bytes] = set()
    for call in records_of(episode.records, LlmCallRecord):
        turns: Sequence[Message] = call.messages or ()
        if not turns and call.prompt:
            turns = (Message(role="user", content=call.prompt),)
        answer = call.response_message
        if answer is None and call.response:
            answer = Message(role="assistant", content=call.response)
        for turn in (*turns, *((answer,) if answer else ())):
            key = msgspec.json.encode((turn.role, turn.text, turn.tool_calls))
            if key not in seen:
                seen.add(key)
                yield _turn(turn)


def _turn(turn: Message) -> str:
    parts = [turn.text] if turn.text else []
    for call in turn.tool_calls or ():
        arguments = call.function.arguments
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        parts.append(f"-> calls {call.function.name}({arguments})")
    return f"[{turn.role}]\n" + "\n".join(parts)


def _actions(episode: Episode) -> Iterator[str]:
    for action in records_of(episode.records, ActionRecord):
        did = f"[worker {action.worker_id}] {action.action}({action.target or ''})"
        result = action.output if action.success else f"failed: {action.error}"
        observed = f"sees: {action.observation}\n" if action.observation else ""
        yield f"{observed}{did}" + (f"\n{result}" if result else "")
