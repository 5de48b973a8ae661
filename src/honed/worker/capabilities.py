"""What a chat template can do, found out as llama-server finds it out: by trying.

llama.cpp (common/jinja/caps.cpp) renders small conversations and watches which values the template
touches. Here a value is recognised in the text, or watches for itself whether it is looped over.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, SupportsIndex

_TEXT: Final = "STRING_MARKER"
_SYSTEM: Final = "SYSTEM_MARKER"
_ARGUMENT: Final = "ARGUMENT_MARKER"

Execute = Callable[[Mapping[str, Any]], str]
"""Renders the template with these variables, or raises."""


class Capabilities(NamedTuple):
    """What decides how llama-server rewrites a conversation."""

    string_content: bool
    """Content may be a text."""
    typed_content: bool
    """Content may be a list of parts."""
    system_role: bool
    """A system turn is shown."""
    object_arguments: bool
    """Arguments of tool calls are taken as objects, not as JSON text."""


def capabilities_of(execute: Execute) -> Capabilities:
    """Try a template."""
    string_content, typed_content = _content_forms(execute)
    return Capabilities(
        string_content=string_content,
        typed_content=typed_content,
        system_role=_SYSTEM in (_tried(execute, [_turn("system", _SYSTEM), _user()]) or ""),
        object_arguments=_takes_objects(execute),
    )


class _WatchedText(str):
    """A text that knows whether it was taken for a list."""

    looped = False

    def __iter__(self) -> Iterator[str]:
        self.looped = True
        return super().__iter__()

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        self.looped = self.looped or not isinstance(key, slice)
        return super().__getitem__(key)


class _WatchedList(list[Any]):
    """A list that knows whether it was looped over."""

    looped = False

    def __iter__(self) -> Iterator[Any]:
        self.looped = True
        return super().__iter__()


class _Hidden(str):
    """A text that shows itself where it is written, but not where an object around it is printed."""

    def __repr__(self) -> str:
        return "?"


def _content_forms(execute: Execute) -> tuple[bool, bool]:
    text = _WatchedText(_TEXT)
    shown = _tried(execute, [_turn("user", text)])
    empty = _WatchedList()
    takes_empty = _tried(execute, [_turn("user", empty)]) is not None and empty.looped
    is_string = shown is not None and not (text.looped and _TEXT not in shown)
    return is_string, text.looped or takes_empty


def _takes_objects(execute: Execute) -> bool:
    call = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "tool1", "arguments": {"arg": _Hidden(_ARGUMENT)}},
    }
    shown = _tried(
        execute,
        [
            _user(),
            _turn("assistant", "") | {"tool_calls": [call]},
            _turn("tool", "Tool response") | {"tool_call_id": "call00001"},
            _turn("assistant", "The tool response was 'tool response'"),
            _user(),
        ],
        tools=[_TOOL],
    )
    return shown is not None and _ARGUMENT in shown


_TOOL: Final = {
    "name": "tool",
    "type": "function",
    "function": {
        "name": "tool1",
        "description": "Tool description",
        "parameters": {
            "type": "object",
            "properties": {"arg": {"type": "string", "description": "Arg description"}},
            "required": ["arg"],
        },
    },
}


def _user() -> dict[str, Any]:
    return _turn("user", "User message")


def _turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _tried(
    execute: Execute, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
) -> str | None:
    """The text, or None when the template refuses."""
    variables = {
        "messages": messages,
        "tools": tools or [],
        "bos_token": "",
        "eos_token": "",
        "add_generation_prompt": True,
    }
    try:
        return execute(variables)
    except Exception:  # what a template may raise has no common base, and any refusal is an answer
        return None
