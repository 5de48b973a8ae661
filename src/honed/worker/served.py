"""The text that llama-server makes of a conversation, made here.

What an agent sends does not reach the chat template as it is. llama-server (llama.cpp,
common/chat.cpp) first tries the template on small conversations to see what it can do, and rewrites
messages and tools accordingly; its template engine writes numbers in its own way; and it sets
variables that transformers does not know. A model that is trained on transformers' rendering would
be asked with other text than it has learned. So rows, scores and `honed data show` take their text
from here. Compared with the server's own rendering in tests/unit/worker/test_templates.py.

Not followed: `chat_template_kwargs` of single requests (the store does not know them), and what
llama.cpp does for single models by a mark in their templates (gpt-oss, Ministral 3, Kimi K2, Gemma
4, StepFun). Where that touches the reasoning of past turns, the conversation is refused here; the
rest is for the gateway's comparison at start-up.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import soft_str

from honed.errors import TrainingError
from honed.worker.capabilities import Capabilities, capabilities_of
from honed.worker.template import without_generation_markers

Message = dict[str, Any]
Tool = dict[str, Any]
Strftime = Callable[[str], str]

KEEPS_DEVELOPER: Final = "<|channel|>"
"""In a template: the role `developer` reaches it as it is (gpt-oss)."""
WANTS_THINKING: Final = ("<|tool_list_start|>", "List of tools: [")
"""In a template: the reasoning of a turn reaches it as `thinking` too (LFM2)."""
REWRITES_REASONING: Final = (
    "<|channel|>",  # gpt-oss
    "[SYSTEM_PROMPT]",  # Ministral 3, unless calls have ids (Mistral Small 3.2)
)
_REFUSES_EMPTY: Final = (
    "{%- if (message['content'] is none or message['content'] == '' or "
    "message['content']|length == 0) and (message['tool_calls'] is not defined or "
    "message['tool_calls'] is none or message['tool_calls']|length == 0) %}"
)
"""What llama-server switches off in Mistral's templates."""


class UnservableError(TrainingError):
    """llama-server could not be asked with this conversation, or refuses it."""


class ServedTemplate:
    """A model's chat template as llama-server applies it."""

    def __init__(self, source: str, *, bos_token: str, eos_token: str) -> None:
        """Compile the template and find out what it can do.

        Raises:
            TrainingError: the template is no Jinja that is known here.
        """
        self.source = without_generation_markers(source)
        if "[TOOL_CALLS]" in self.source:
            self.source = self.source.replace(_REFUSES_EMPTY, "{%- if false %}")
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise TrainingError(
                f"line {error.lineno} of the chat template cannot be read: {error.message}",
                advice="compare chat_template.jinja with the model's own on the hub",
            ) from error
        self.capabilities: Capabilities = capabilities_of(
            functools.partial(self._execute, datetime.now().astimezone().strftime)
        )

    @functools.cached_property
    def closing(self) -> str:
        """What the template writes at the end when no turn is begun (Phi-3: the end of text)."""
        eos_token = self._tokens["eos_token"]
        asked = [{"role": "user", "content": "User message"}]
        try:
            closed = self.render(asked, add_generation_prompt=False)
            begun = self.render(asked, add_generation_prompt=True)
        except UnservableError:
            return ""
        is_closed = closed.endswith(eos_token) and not begun.startswith(closed)
        return eos_token if is_closed else ""

    @functools.cached_property
    def wants_short_ids(self) -> bool:
        """Whether the ids of tool calls must have nine letters or digits (Mistral)."""
        return not self._takes_id("call_of_more_than_nine") and self._takes_id("call00001")

    def _takes_id(self, name: str) -> bool:
        function = {"name": "look", "arguments": {}}
        talk: list[Message] = [
            {"role": "user", "content": "User message"},
            {"role": "assistant", "tool_calls": [{"id": name, "function": function}]},
            {"role": "tool", "tool_call_id": name, "content": "Tool response"},
        ]
        try:
            self.render(talk, add_generation_prompt=True)
        except UnservableError:
            return False
        return True

    @classmethod
    def of(cls, tokenizer: Any) -> "ServedTemplate":
        """The template of a tokenizer; of several named ones the default."""
        source = tokenizer.chat_template
        if isinstance(source, Mapping):
            source = source["default"]
        return cls(source, bos_token=tokenizer.bos_token or "", eos_token=tokenizer.eos_token or "")

    def render(
        self,
        messages: list[Message],
        tools: list[Tool] | None = None,
        *,
        add_generation_prompt: bool,
        strftime: Strftime | None = None,
    ) -> str:
        """The text of a conversation, as the server tokenises it.

        Args:
            messages: turns in OpenAI's form.
            tools: what is offered; none and an empty list are the same.
            add_generation_prompt: whether a turn of the assistant is begun.
            strftime: writes the present moment in a format, for templates that say the date.

        Raises:
            UnservableError: the template, or the server before it, refuses the conversation.
        """
        strftime = strftime or datetime.now().astimezone().strftime  # the server's local time
        variables: dict[str, Any] = {
            **self._tokens,
            "messages": self.messages(messages),
            "enable_thinking": True,
            "datetime": strftime("%b %d %Y"),
            "date_string": strftime("%d %b %Y"),
        }
        if tools:
            variables["tools"] = [served_tool(tool) for tool in tools]
        if add_generation_prompt:
            variables["add_generation_prompt"] = True
        try:
            return self._execute(strftime, variables)
        except Exception as error:  # what a template may raise has no common base
            raise UnservableError(
                f"the chat template refuses the conversation: {_first_line(error)}",
                advice="compare the template's rules with the roles and tool calls in the data",
            ) from error

    def messages(self, messages: list[Message]) -> list[Message]:
        """The turns as the template gets them.

        Raises:
            UnservableError: the server refuses one of them.
        """
        can = self.capabilities
        turns = [served_message(message) for message in messages]
        if self._rewrites_reasoning and any("reasoning_content" in turn for turn in turns):
            raise UnservableError(
                "a turn has reasoning_content, which llama-server rewrites for this template",
                advice="leave the reasoning out of the data",
            )
        for turn in turns:
            turn["content"] = _fitting(turn["content"], can)
            if turn["role"] == "developer" and KEEPS_DEVELOPER not in self.source:
                turn["role"] = "system"
            if can.object_arguments:
                for call in turn.get("tool_calls", ()):
                    call["function"]["arguments"] = _parsed(call["function"]["arguments"])
            if "reasoning_content" in turn and any(m in self.source for m in WANTS_THINKING):
                turn["thinking"] = turn["reasoning_content"]
        return turns if can.system_role else _without_system(turns)

    @property
    def _rewrites_reasoning(self) -> bool:
        return "[CALL_ID]" not in self.source and any(
            mark in self.source for mark in REWRITES_REASONING
        )

    def _execute(self, strftime: Strftime, variables: Mapping[str, Any]) -> str:
        return self._template.render(variables, strftime_now=strftime)


def num_shared(a: str, b: str) -> int:
    """Characters that two texts begin with in common."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (c, d) in enumerate(zip(a, b, strict=False)) if c != d), len(b))


def served_message(message: Message) -> Message:
    """A turn as llama-server reads it: the keys that it knows, in its order.

    Absent content is the empty text, arguments of tool calls are JSON text.

    Raises:
        UnservableError: it holds something other than text.
    """
    turn: Message = {"role": message["role"], "content": _content(message.get("content"))}
    for key, source in (
        ("reasoning_content", "reasoning_content"),
        ("name", "name"),
        ("tool_call_id", "tool_call_id"),
    ):
        if value := message.get(source):
            turn[key] = value
    if calls := message.get("tool_calls"):
        turn["tool_calls"] = [_tool_call(call) for call in calls]
    return turn


def served_tool(tool: Tool) -> Tool:
    """A tool as llama-server hands it on: name, description and parameters; all else is dropped."""
    try:
        function = tool["function"]
        return {
            "type": "function",
            "function": {
                "name": function["name"],
                "description": function.get("description", ""),
                "parameters": function.get("parameters", {}),
            },
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UnservableError(
            f"a tool is not in OpenAI's form: {type(error).__name__} {error}",
            advice='expected {"type": "function", "function": {"name": ..., "parameters": {...}}}',
        ) from error


def _content(content: Any) -> str | list[dict[str, str]]:
    if not isinstance(content, (list, tuple)):
        return content or ""
    for part in content:
        if (kind := part.get("type", "text")) != "text":
            raise UnservableError(f"a turn has content of type {kind}: expected text")
    return [{"type": "text", "text": part.get("text") or ""} for part in content] or ""


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    served = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return served | ({"id": call["id"]} if call.get("id") else {})


def _fitting(content: str | list[dict[str, str]], can: Capabilities) -> Any:
    """Content in the form that the template takes; parts are joined by newlines."""
    if isinstance(content, list):
        only_text = can.string_content and not can.typed_content
        return "\n".join(part["text"] for part in content if part["text"]) if only_text else content
    only_parts = can.typed_content and not can.string_content
    return [{"type": "text", "text": content}] if only_parts else content


def _without_system(turns: list[Message]) -> list[Message]:
    """A system turn that the template would not show goes before the next turn's text."""
    if not turns or turns[0]["role"] != "system":
        return turns
    system, *others = turns
    if not others:
        return []
    first = others[0]
    if not (isinstance(system["content"], str) and isinstance(first["content"], str)):
        raise UnservableError("the template has no system role, and the first turns are not text")
    return [first | {"content": f"{system['content']}\n{first['content']}"}, *others[1:]]


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments, parse_constant=_no_constant)
    except ValueError as error:
        raise UnservableError(
            f"the arguments of a tool call are no JSON: {error}",
            advice="llama-server answers such a history with an error; correct or leave out the "
            "conversation",
        ) from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


# The engine: Jinja as transformers sets it up, with llama.cpp's way of writing values.


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], finalize=_printed
    )
    environment.filters["tojson"] = to_json
    environment.filters["string"] = _as_text
    environment.globals["raise_exception"] = _raise
    # Jinja asks with iter(), which a probe would take for a loop.
    environment.tests["iterable"] = lambda value: isinstance(
        value, (str, list, tuple, dict, jinja2.Undefined)
    )
    return environment


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _printed(value: Any) -> Any:
    """A float in a text has at most six decimals."""
    if not isinstance(value, float):
        return value
    text = f"{value:f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _as_text(value: Any) -> Any:
    """The filter `string`; of a number it is `tojson`."""
    return to_json(value) if isinstance(value, float) else soft_str(value)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as llama.cpp's filter `tojson` writes it: floats have six digits, so 3.0 is 3."""
    if sort_keys:
        raise jinja2.TemplateError("llama-server has no tojson(sort_keys=true)")
    between, after_key = separators or (", " if indent is None else ",", ": ")
    text = "".join(_json_pieces(value, indent, between, after_key, 0))
    return _ascii(text) if ensure_ascii else text


def _json_pieces(
    value: Any, indent: int | None, between: str, after_key: str, level: int
) -> Iterator[str]:
    if isinstance(value, (dict, list, tuple)):
        yield from _json_container(value, indent, between, after_key, level)
    elif isinstance(value, str):
        yield json.dumps(str(value), ensure_ascii=False)
    elif isinstance(value, float):
        yield f"{value:g}"
    elif value is None or isinstance(value, jinja2.Undefined):
        yield "null"
    elif isinstance(value, bool):
        yield "true" if value else "false"
    else:
        yield str(value)


def _json_container(
    value: Any, indent: int | None, between: str, after_key: str, level: int
) -> Iterator[str]:
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    line = "" if indent is None else "\n" + " " * (indent * (level + 1))
    yield opening
    # past a watching list (worker/capabilities.py): writing it is no loop of the template
    keys = list.__iter__(value) if isinstance(value, list) else iter(value)
    for i, key in enumerate(keys):
        yield (between if i else "") + line
        if isinstance(value, dict):
            yield json.dumps(str(key), ensure_ascii=False) + after_key
        item = value[key] if isinstance(value, dict) else key
        yield from _json_pieces(item, indent, between, after_key, level + 1)
    if value and indent is not None:
        yield "\n" + " " * (indent * level)
    yield closing


def _ascii(text: str) -> str:
    """Letters beyond ASCII escaped; they stand in strings alone."""
    return "".join(c if c < "\x80" else json.dumps(c)[1:-1] for c in text)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
