"""The messages of GenAI spans, in the three ways they have been written, to OpenAI's form.

now         `gen_ai.input.messages`: `[{"role", "parts": [{"type": "text", "content"}, ...]}]`
before 1.37 span events `gen_ai.user.message`, `gen_ai.choice`, ...
OpenLLMetry `gen_ai.prompt.0.role`, `gen_ai.prompt.0.content`, `gen_ai.completion.0.content`
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from honed.domain.message import FunctionCall, Message, ToolCall
from honed.errors import ValidationError
from honed.sources.otlp.spans import SpanEvent

_OLD_EVENTS: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
_NUMBERED: Final = re.compile(r"gen_ai\.(prompt|completion)\.(\d+)\.(.+)\Z")
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


def from_parts(value: Any) -> list[Message]:
    """The messages of `gen_ai.input.messages` or `gen_ai.output.messages`, JSON text or structured.

    Raises:
        ValidationError: they are not in the form of the convention.
    """
    said = _structured(value)
    if not isinstance(said, list):
        raise ValidationError(f"messages are {type(said).__name__}: expected a list")
    return [message for each in said for message in _from_parts(each)]


def system_from_parts(value: Any) -> list[Message]:
    """The system message of `gen_ai.system_instructions`; none when it is empty."""
    said = _structured(value)
    parts = [{"type": "text", "content": said}] if isinstance(said, str) else said
    text = "\n".join(str(part.get("content", "")) for part in _dicts(parts))
    return [Message(role="system", content=text)] if text else []


def from_events(events: Sequence[SpanEvent]) -> tuple[list[Message], Message | None]:
    """Messages and answer of the older span events."""
    sent: list[Message] = []
    answer: Message | None = None
    for event in events:
        said = {name: _structured(value) for name, value in event.attributes.items()}
        if role := _OLD_EVENTS.get(event.name):
            sent.append(_openai_message({"role": role} | said))
        elif event.name == "gen_ai.choice" and answer is None:
            message = said.get("message")
            answer = _openai_message(
                {"role": "assistant"} | (message if isinstance(message, dict) else said)
            )
    return sent, answer


def from_numbered(attributes: dict[str, Any]) -> tuple[list[Message], Message | None]:
    """Messages and answer of OpenLLMetry's numbered attributes."""
    found: dict[str, dict[int, dict[str, Any]]] = {"prompt": {}, "completion": {}}
    for name, value in attributes.items():
        if match := _NUMBERED.match(name):
            _put(found[match[1]].setdefault(int(match[2]), {}), match[3].split("."), value)
    sent = [_numbered_message(m) for _, m in sorted(found["prompt"].items())]
    answers = [_numbered_message(m) for _, m in sorted(found["completion"].items())]
    return sent, answers[0] if answers else None


def _put(message: dict[str, Any], path: list[str], value: Any) -> None:
    """`tool_calls.0.name` into nested dictionaries."""
    for step in path[:-1]:
        inner = message.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        message = inner
    message[path[-1]] = value


def _numbered_message(said: dict[str, Any]) -> Message:
    calls = said.get("tool_calls")
    if isinstance(calls, dict):
        order = sorted(calls, key=lambda key: int(key) if key.isdecimal() else 0)
        said = said | {
            "tool_calls": [{"function": call, **call} for call in _dicts(calls[k] for k in order)]
        }
    return _openai_message({"role": "assistant"} | said)


def _from_parts(said: Any) -> list[Message]:
    if not isinstance(said, dict) or not isinstance(said.get("role"), str):
        raise ValidationError("a message has no role")
    if "parts" not in said:
        return [_openai_message(said)]
    role = _role(said["role"])
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    for part in _dicts(said["parts"]):
        match part.get("type"):
            case "text":
                texts.append(_text(part.get("content")))
            case "reasoning":
                reasoning.append(_text(part.get("content")))
            case "tool_call":
                calls.append(_tool_call(part.get("id"), part.get("name"), part.get("arguments")))
            case "tool_call_response":
                answer = part.get("response", part.get("result"))
                results.append(
                    Message(role="tool", content=_text(answer), tool_call_id=_name(part.get("id")))
                )
            case other:
                raise ValidationError(f"a part of type {other!r} is not text")
    if results:  # one message of the convention may carry the results of several calls
        return results
    return [
        Message(
            role=role,
            content="".join(texts),
            tool_calls=tuple(calls) or None,
            reasoning_content="".join(reasoning) or None,
        )
    ]


def _openai_message(said: dict[str, Any]) -> Message:
    calls = said.get("tool_calls")
    return Message(
        role=_role(said.get("role")),
        content=_text(said.get("content")),
        tool_calls=tuple(_openai_call(call) for call in _dicts(calls)) or None if calls else None,
        tool_call_id=_name(said.get("tool_call_id") or said.get("id")),
    )


def _openai_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    return _tool_call(call.get("id"), inner.get("name"), inner.get("arguments"))


def _tool_call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    if not isinstance(name, str) or not name:
        raise ValidationError("a tool call has no name")
    if not isinstance(arguments, (str, dict)):
        arguments = "{}" if arguments is None else msgspec.json.encode(arguments).decode()
    return ToolCall(id=_name(call_id), function=FunctionCall(name=name, arguments=arguments))


def _role(role: Any) -> Any:
    if role not in _ROLES:
        raise ValidationError(f"role {role!r}: expected one of {', '.join(_ROLES)}")
    return role


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _structured(value: Any) -> Any:
    """What JSON text holds; other values, and text that is no list or object, as they are."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise ValidationError(f"{type(value).__name__}: expected a list of objects")
    for each in value:
        if not isinstance(each, dict):
            raise ValidationError(f"{type(each).__name__}: expected an object")
        yield each
