"""ShareGPT rows: `{"conversations": [{"from", "value"}], "system"?, "tools"?}`.

Calls of tools have turns of their own here (`function_call`), their results are `observation`; a
`gpt` turn straight before a call is the text of the same answer. Rows whose turns are in OpenAI's
form (`role`, `content`) under the same key are read as that.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from honed.domain.message import FunctionCall, Message, ToolCall
from honed.training_sets.formats.turns import NULL, placed, read_tools, read_turns, require_answers
from honed.training_sets.trajectories import Trajectory, opening_group

Speaker = Literal["system", "user", "assistant", "call", "tool"]

SPEAKERS: Final[dict[str, Speaker]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}


class _Turn(Struct):
    speaker: str = msgspec.field(name="from")
    value: str


class _Row(Struct):
    conversations: Raw
    system: str | None = None
    tools: Raw = NULL


class _Call(Struct):
    name: str
    arguments: Raw = Raw(b"{}")


class _AnyTurn(Struct):
    role: str | None = None


_row: Final = msgspec.json.Decoder(_Row)
_forms: Final = msgspec.json.Decoder(tuple[_AnyTurn, ...])
_turns: Final = msgspec.json.Decoder(tuple[_Turn, ...])
_calls: Final = msgspec.json.Decoder(tuple[_Call, ...] | _Call)


def read_sharegpt(text: bytes) -> list[Trajectory]:
    """One attempt without an outcome; what opens alike is one group."""
    row = _row.decode(text)
    path = "$.conversations"
    tools = read_tools(row.tools)
    try:
        forms = _forms.decode(row.conversations)
        if any(turn.role is not None for turn in forms):
            turns = read_turns(row.conversations, path)
        else:
            turns = tuple(_joined(_turns.decode(row.conversations)))
    except msgspec.ValidationError as error:
        raise ValueError(placed(error, path)) from None
    if row.system:
        if turns and turns[0].role == "system":
            raise ValueError("$.system is set and the conversation has a system turn as well")
        turns = (Message(role="system", content=row.system), *turns)
    require_answers(turns, path)
    return [Trajectory(messages=turns, tools=tools, group_id=opening_group(turns, tools))]


def _joined(turns: tuple[_Turn, ...]) -> Iterator[Message]:
    """Messages of the turns; a text and the calls after it are one answer."""
    before: Speaker | None = None
    said: str | None = None
    for i, turn in enumerate(turns):
        speaker = SPEAKERS.get(turn.speaker)
        if speaker is None:
            known = ", ".join(SPEAKERS)
            raise ValueError(
                f"$.conversations[{i}].from is {turn.speaker!r}: expected one of {known}"
            )
        if reason := _why_out_of_turn(before, speaker):
            raise ValueError(f"$.conversations[{i}] ({turn.speaker}) {reason}")
        if speaker == "call":
            yield Message(role="assistant", content=said, tool_calls=_tool_calls(turn.value, i))
        elif said is not None:
            yield Message(role="assistant", content=said)
        said = turn.value if speaker == "assistant" else None
        if speaker in ("system", "user", "tool"):
            yield Message(role=speaker, content=turn.value)
        before = speaker
    if said is not None:
        yield Message(role="assistant", content=said)


def _why_out_of_turn(before: Speaker | None, speaker: Speaker) -> str | None:
    """Why the speaker cannot follow: a turn is missing, or nobody called the tool."""
    if speaker == "tool" and before not in ("call", "tool"):
        return "answers no function_call: expected one straight before"
    if before == "call" and speaker != "tool":
        return "follows a function_call: expected its observation"
    if speaker == before and speaker in ("user", "assistant"):
        return "speaks twice in a row: a turn is missing"
    return None


def _tool_calls(value: str, index: int) -> tuple[ToolCall, ...]:
    try:
        found = _calls.decode(value)
        calls = (found,) if isinstance(found, _Call) else found
        if not calls:
            raise ValueError("an empty list")
        return tuple(
            ToolCall(function=FunctionCall(name=call.name, arguments=_arguments(call.arguments)))
            for call in calls
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(
            f"$.conversations[{index}].value is no function call: {error}: expected"
            ' {"name", "arguments"} as JSON text'
        ) from None


def _arguments(raw: Raw) -> str:
    """The arguments as they are written; some write them as text that holds JSON."""
    text = bytes(raw).decode().strip()
    if text.startswith('"'):
        return msgspec.json.decode(text, type=str)
    if not text.startswith("{"):
        raise ValueError("arguments are no object")
    return text
