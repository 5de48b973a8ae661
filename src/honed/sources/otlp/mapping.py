"""What GenAI spans mean: model calls, tool calls and evaluations as events.

The conventions are young and change their names; `NAMES` lists, for each thing, the names it has had,
newest first. Anything else of a span is kept as it came, beside the event, under `otel_span`.

A call's task is `honed.task_id` where the agent sets it, else the conversation, else the trace. Ids
are made from trace and span, so that an exporter may send a batch again.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from honed.domain.events import (
    ActionContext,
    ActionEvent,
    ActionResult,
    Event,
    LlmCallEvent,
    OutcomeEvent,
)
from honed.domain.message import Message, Tool
from honed.domain.outcome import Failure, Outcome, Success, outcome_from_reward
from honed.errors import ValidationError
from honed.sources.otlp import messages
from honed.sources.otlp.spans import Span, SpanEvent

VERSION: Final = 1
"""Raised when the mapping changes; kept with every event."""

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "operation": ("gen_ai.operation.name", "llm.request.type"),
    "provider": ("gen_ai.provider.name", "gen_ai.system"),
    "model": ("gen_ai.response.model", "gen_ai.request.model"),
    "input": ("gen_ai.input.messages",),
    "output": ("gen_ai.output.messages",),
    "instructions": ("gen_ai.system_instructions",),
    "tools": ("gen_ai.tool.definitions", "gen_ai.request.tools"),
    "conversation": (
        "gen_ai.conversation.id",
        "session.id",
        "traceloop.association.properties.session_id",
    ),
    "agent": ("gen_ai.agent.name",),
    "user": ("user.id", "enduser.id"),
    "task": ("honed.task_id",),
    "group": ("honed.group_id",),
    "receipt": ("honed.receipt_id", "http.response.header.x-honed-receipt", "gen_ai.response.id"),
    "response": ("gen_ai.response.id",),
    "finish": ("gen_ai.response.finish_reasons",),
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    "error": ("error.type",),
    "tool_name": ("gen_ai.tool.name", "traceloop.entity.name"),
    "tool_arguments": ("gen_ai.tool.call.arguments", "traceloop.entity.input"),
    "tool_result": ("gen_ai.tool.call.result", "traceloop.entity.output"),
    "tool_call": ("gen_ai.tool.call.id",),
}
_CALLS: Final = ("chat", "text_completion", "generate_content", "completion")
_EVALUATION: Final = "gen_ai.evaluation.result"
_PASSED: Final = ("pass", "passed", "success", "correct", "true", "yes", "good")
_FAILED: Final = ("fail", "failed", "failure", "incorrect", "false", "no", "bad")


class Mapped(NamedTuple):
    """What became of the spans of one export."""

    lines: list[bytes]
    """Events, one JSON object each."""
    num_without_content: int
    """Model calls that came without their messages: content capture is off where they were made."""
    num_other: int
    """Spans that are no model call, tool call or evaluation."""
    faults: list[str]
    """Why spans could not be read, one sentence each."""


def events_of(spans: Iterable[Span]) -> Mapped:
    """The events of an export."""
    mapped = Mapped([], 0, 0, [])
    for span in spans:
        try:
            found = list(_events(span))
        except (ValidationError, ValueError) as error:
            mapped.faults.append(f"span {span.span_id} ({span.name}): {error}")
            continue
        mapped.lines.extend(_line(event, span) for event in found)
        if not found:
            is_call = _get(span, "operation") in _CALLS
            mapped = mapped._replace(
                num_without_content=mapped.num_without_content + is_call,
                num_other=mapped.num_other + (not is_call),
            )
    return mapped


def _events(span: Span) -> Iterator[Event]:
    operation = _get(span, "operation")
    if operation in _CALLS and (call := _call(span)) is not None:
        yield call
    elif operation == "execute_tool" or span.attributes.get("traceloop.span.kind") == "tool":
        yield _action(span)
    for number, event in enumerate(span.events):
        if event.name == _EVALUATION:
            yield _outcome(span, number, event)


def _call(span: Span) -> LlmCallEvent | None:
    sent, answer = _messages(span)
    if not sent or (answer is None and not span.is_error):
        return None
    return LlmCallEvent(
        **_envelope(span),
        model=_text(span, "model") or "",
        endpoint=_text(span, "provider") or "",
        messages=tuple(sent),
        tools=_tools(span),
        response_message=answer,
        receipt_id=_receipt(span),
        response_id=_text(span, "response"),
        latency_ms=max(0, span.end_ms - span.start_ms),
        prompt_tokens=_count(span, "input_tokens"),
        completion_tokens=_count(span, "output_tokens"),
        finish_reason=_first(_get(span, "finish")),
        error=_error(span) if span.is_error else None,
    )


def _messages(span: Span) -> tuple[list[Message], Message | None]:
    sent: list[Message] = []
    if (instructions := _get(span, "instructions")) is not None:
        sent += messages.system_from_parts(instructions)
    if (said := _get(span, "input")) is not None:
        sent += messages.from_parts(said)
        answers = messages.from_parts(_get(span, "output") or [])
        return sent, answers[0] if answers else None
    older, answer = messages.from_events(span.events)
    if not older:
        older, answer = messages.from_numbered(span.attributes)
    return sent + older, answer


def _action(span: Span) -> ActionEvent:
    name = _text(span, "tool_name") or span.name.removeprefix("execute_tool ")
    told = {"arguments": _get(span, "tool_arguments"), "tool_call_id": _get(span, "tool_call")}
    result = _get(span, "tool_result")
    return ActionEvent(
        **_envelope(span),
        tick=span.start_ms,
        worker_id=0,
        action=name[:200] or "tool",
        result=ActionResult(
            success=not span.is_error,
            output=None if result is None else _as_text(result),
            error=_error(span) if span.is_error else None,
        ),
        duration_ms=max(0, span.end_ms - span.start_ms),
        context=ActionContext(
            extra={key: value for key, value in told.items() if value is not None}
        ),
    )


def _outcome(span: Span, number: int, event: SpanEvent) -> OutcomeEvent:
    attributes = event.attributes
    label = str(attributes.get("gen_ai.evaluation.score.label", "")).strip().lower()
    score = attributes.get("gen_ai.evaluation.score.value")
    reason = str(attributes.get("gen_ai.evaluation.explanation", ""))
    envelope = _envelope(span)
    envelope["event_id"] = f"{envelope['event_id']}-{number}"
    receipt = _receipt(span)
    if receipt is not None:
        # The call knows its task better than the trace does.
        envelope["task_id"] = _text(span, "task")
    return OutcomeEvent(
        **envelope,
        outcome=_verdict(label, score, reason),
        receipt_id=receipt,
        source=str(attributes.get("gen_ai.evaluation.name", "evaluation")),
    )


def _verdict(label: str, score: Any, reason: str) -> Outcome:
    """A label decides; a score alone must be in 0..1."""
    if label in _FAILED:
        return Failure(reason or label)
    if isinstance(score, (int, float)) and 0 <= score <= 1:
        if label in _PASSED:
            return Success(float(score) or 1.0)
        found = outcome_from_reward(float(score))
        return Failure(reason) if isinstance(found, Failure) and reason else found
    if label in _PASSED:
        return Success(1.0)
    raise ValidationError(
        f"the evaluation says neither pass nor fail nor a score in 0..1: {score!r}"
    )


def _envelope(span: Span) -> dict[str, Any]:
    conversation = _text(span, "conversation")
    service = span.resource.get("service.name")
    return {
        "event_id": f"{span.trace_id}-{span.span_id}",
        "task_id": _text(span, "task") or conversation or span.trace_id,
        "group_id": _text(span, "group"),
        "session_id": conversation,
        "agent": _text(span, "agent"),
        "user": _text(span, "user"),
        "tags": {"service": service} if isinstance(service, str) else {},
        "timestamp_ms": span.start_ms or None,
    }


def _tools(span: Span) -> tuple[Tool, ...] | None:
    """Tool definitions; the convention's own form is flat, OpenAI's has `function`."""
    said = _get(span, "tools")
    if isinstance(said, str):
        try:
            said = msgspec.json.decode(said)
        except msgspec.DecodeError:
            return None
    if not isinstance(said, list):
        return None
    tools = [tool for tool in said if isinstance(tool, dict)]
    return (
        tuple(
            tool
            if "function" in tool
            else {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in tools
        )
        or None
    )


def _line(event: Event, span: Span) -> bytes:
    raw = {"mapping": VERSION, "name": span.name} | {
        "attributes": span.attributes,
        "events": [each._asdict() for each in span.events],
        "resource": span.resource,
        "status": {"error": span.is_error, "message": span.status_message},
    }
    told = msgspec.to_builtins(event)
    return msgspec.json.encode(told | {"otel_span": raw})


def _receipt(span: Span) -> str | None:
    return _first(_get(span, "receipt"))


def _error(span: Span) -> str:
    return span.status_message or _text(span, "error") or "error"


def _get(span: Span, what: str) -> Any:
    return next((span.attributes[n] for n in NAMES[what] if n in span.attributes), None)


def _text(span: Span, what: str) -> str | None:
    value = _get(span, what)
    return value if isinstance(value, str) and value else None


def _count(span: Span, what: str) -> int | None:
    value = _get(span, what)
    return value if isinstance(value, int) and value >= 0 else None


def _first(value: Any) -> str | None:
    """A text, or the first one of a list."""
    found = value[0] if isinstance(value, list) and value else value
    return found if isinstance(found, str) and found else None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
