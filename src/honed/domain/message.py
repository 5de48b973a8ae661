"""Chat messages in OpenAI's form, as events, episodes and training data carry them."""

from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "developer", "user", "assistant", "tool"]


class FunctionCall(Struct, frozen=True, kw_only=True):
    """The function that a tool call names, its arguments as JSON text (or an object, as some senders write)."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a tool by the assistant."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class ContentPart(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a message's content; only `text` parts carry text."""

    type: str = "text"
    text: str | None = None


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation, `tool_calls` and all."""

    role: Role
    content: str | tuple[ContentPart, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @property
    def text(self) -> str:
        """The text of the content, parts joined; empty when there is none."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content)

    @property
    def is_empty(self) -> bool:
        """Whether the turn has neither text nor a tool call."""
        return not self.text and not self.tool_calls


Tool = dict[str, Any]
"""A tool's schema in OpenAI's form: `{"type": "function", "function": {...}}`."""
