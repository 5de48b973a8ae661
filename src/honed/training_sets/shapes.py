"""Writes the conversation of an episode in the shapes that trainers read.

What a shape cannot hold is refused with a reason that can be counted, never bent into it. In the
shapes with a prompt, the prompt is what precedes the first turn to imitate.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from honed.domain.message import Message, Tool
from honed.domain.outcome import Outcome, is_known, is_success
from honed.domain.training_data import ChatExample, LabelledExample, PreferencePair
from honed.training_sets.formats.sharegpt import read_sharegpt
from honed.training_sets.rows import format_row, format_turns

ShapeName = Literal[
    "sft", "conversations", "prompt-completion", "labelled", "preference", "sharegpt"
]

GAPS: Final = "some answers in it may not be imitated"
NO_OUTCOME: Final = "without an outcome"
NO_GROUP: Final = "it names no group of comparable attempts"
NO_FAILURE: Final = "no failed attempt at the same prompt"
NO_SUCCESS: Final = "no successful attempt at the same prompt"
SAME_ANSWER: Final = "success and failure say the same"


class InexpressibleError(ValueError):
    """A shape cannot hold a conversation; the message is the same for all with that fault."""


class Part(NamedTuple):
    """A conversation, cut where imitation begins."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    tools: tuple[Tool, ...] | None


def cut(example: ChatExample) -> Part:
    """Prompt and completion of a conversation.

    Raises:
        InexpressibleError: behind the first turn to imitate, there are some that may not be.
    """
    answers = [i for i, turn in enumerate(example.messages) if i and turn.role == "assistant"]
    trained = list(answers if example.trained_turns is None else example.trained_turns)
    if not trained or [i for i in answers if i >= trained[0]] != trained:
        raise InexpressibleError(GAPS)
    first = trained[0]
    return Part(example.messages[:first], example.messages[first:], example.tools)


def as_sft(example: ChatExample, outcome: Outcome) -> bytes:
    """`{"messages", "tools"?}`."""
    return format_row(_whole(example))


def as_conversations(example: ChatExample, outcome: Outcome) -> bytes:
    """`{"conversations", "tools"?}` with turns of role and content, as older trainers read them."""
    return format_row(_whole(example), turns="conversations")


def _whole(example: ChatExample) -> ChatExample:
    """A conversation of which every answer is imitated."""
    part = cut(example)
    if any(turn.role == "assistant" for turn in part.prompt[1:]):
        raise InexpressibleError(GAPS)
    return ChatExample(messages=example.messages, tools=example.tools)


def as_prompt_completion(example: ChatExample, outcome: Outcome) -> bytes:
    """`{"prompt", "completion", "tools"?}`."""
    part = cut(example)
    row: dict[str, Any] = {
        "prompt": format_turns(part.prompt),
        "completion": format_turns(part.completion),
    }
    if part.tools:
        row["tools"] = part.tools
    return msgspec.json.encode(row)


def as_labelled(example: ChatExample, outcome: Outcome) -> bytes:
    """`{"prompt", "completion", "label", "tools"?}`; true for a success."""
    if not is_known(outcome):
        raise InexpressibleError(NO_OUTCOME)
    part = cut(example)
    return format_row(
        LabelledExample(
            prompt=part.prompt,
            completion=part.completion,
            label=is_success(outcome),
            tools=part.tools,
        )
    )


def as_sharegpt(example: ChatExample, outcome: Outcome) -> bytes:
    """`{"conversations", "tools"?}`; ids of tool calls and names of their results have no place."""
    part = cut(example)
    if any(turn.role == "assistant" for turn in part.prompt[1:]):
        raise InexpressibleError(GAPS)
    turns: list[dict[str, str]] = []
    for message in example.messages:
        turns += _spoken(message)
    row: dict[str, Any] = {"conversations": turns}
    if example.tools:
        row["tools"] = msgspec.json.encode(example.tools).decode()
    line = msgspec.json.encode(row)
    try:
        (read,) = read_sharegpt(line)
    except ValueError:
        raise InexpressibleError("turns in an order that this shape does not know") from None
    if [_said(turn) for turn in read.messages] != [_said(turn) for turn in example.messages]:
        raise InexpressibleError("turns that this shape would join")
    return line


def pairs(attempts: Sequence[tuple[ChatExample, Outcome]]) -> tuple[list[bytes], list[str]]:
    """Preference rows of one group, and why attempts are in none of them.

    `{"prompt", "chosen", "rejected", "tools"?}`: attempts at the same prompt are paired so that each
    occurs, and none more often than that needs.
    """
    rows: list[bytes] = []
    left_out: list[str] = []
    sides: dict[bytes, tuple[list[Part], list[Part]]] = {}
    for example, outcome in attempts:
        if not is_known(outcome):
            left_out.append(NO_OUTCOME)
            continue
        try:
            part = cut(example)
        except InexpressibleError as error:
            left_out.append(str(error))
            continue
        key = msgspec.json.encode([part.prompt, part.tools], order="deterministic")
        chosen, rejected = sides.setdefault(key, ([], []))
        (chosen if is_success(outcome) else rejected).append(part)
    for chosen, rejected in sides.values():
        if not chosen or not rejected:
            left_out += [NO_FAILURE] * len(chosen) + [NO_SUCCESS] * len(rejected)
            continue
        for i in range(max(len(chosen), len(rejected))):
            good, bad = chosen[i % len(chosen)], rejected[i % len(rejected)]
            if good.completion == bad.completion:
                left_out.append(SAME_ANSWER)
            else:
                rows.append(_pair(good, bad))
    return rows, left_out


SHAPES: Final[dict[ShapeName, Callable[[ChatExample, Outcome], bytes]]] = {
    "sft": as_sft,
    "conversations": as_conversations,
    "prompt-completion": as_prompt_completion,
    "labelled": as_labelled,
    "sharegpt": as_sharegpt,
}
"""Shapes with one row for each episode; `pairs` makes those of `preference`."""


def _pair(chosen: Part, rejected: Part) -> bytes:
    return format_row(
        PreferencePair(
            prompt=chosen.prompt,
            chosen=chosen.completion,
            rejected=rejected.completion,
            tools=chosen.tools,
        )
    )


def _spoken(message: Message) -> list[dict[str, str]]:
    """The turns of one message; a text and its calls are two."""
    if message.reasoning_content:
        raise InexpressibleError("a turn with reasoning of its own")
    match message.role:
        case "system":
            return [{"from": "system", "value": message.text}]
        case "user":
            if message.name:
                raise InexpressibleError("a turn of a named user")
            return [{"from": "human", "value": message.text}]
        case "tool":
            return [{"from": "observation", "value": message.text}]
        case "assistant":
            said = [{"from": "gpt", "value": message.text}] if message.text else []
            return said + ([_called(message)] if message.tool_calls else [])
        case role:
            raise InexpressibleError(f"a turn of the role {role}")


def _called(message: Message) -> dict[str, str]:
    calls = [
        f'{{"name": {_text(call.function.name)}, "arguments": {_arguments(call.function.arguments)}}}'
        for call in message.tool_calls or ()
    ]
    value = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
    return {"from": "function_call", "value": value}


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _arguments(arguments: str | dict[str, Any]) -> str:
    """The arguments as they are written, so that reading them back changes nothing."""
    text = arguments.strip() if isinstance(arguments, str) else _text(arguments)
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        found = None
    if not isinstance(found, dict):
        raise InexpressibleError("a tool call whose arguments are no JSON object")
    return text


def _said(message: Message) -> object:
    """What a turn says, without what this shape has no place for."""
    calls = [
        (call.function.name, msgspec.json.decode(_arguments(call.function.arguments)))
        for call in message.tool_calls or ()
    ]
    return message.role, message.text, calls
