"""OTLP's trace export, protobuf or JSON, to plain spans.

Source: opentelemetry-proto, `collector/trace/v1/trace_service.proto`; the JSON form is protobuf's own
but for ids, which are hexadecimal, and enums, which are numbers.
"""

import base64
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from honed.errors import ValidationError

STATUS_ERROR: Final = 2
_DEEPEST: Final = 64
"""Levels of nested values; protobuf's own limit is 100."""
_ILL_FORMED: Final = (TypeError, ValueError, AttributeError, KeyError, OverflowError)
"""What reading a span may raise whose fields are others than the specification's."""
_JSON_NAMES: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


class SpanEvent(NamedTuple):
    """Something that happened during a span."""

    name: str
    attributes: dict[str, Any]


class Span(NamedTuple):
    """One operation, as whoever did it saw it."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    name: str
    start_ms: int
    end_ms: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    """Attributes of the process, `service.name` among them."""
    events: tuple[SpanEvent, ...]
    is_error: bool
    status_message: str


def read_protobuf(body: bytes) -> list[Span]:
    """The spans of an ExportTraceServiceRequest.

    Raises:
        ValidationError: the body is not one.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise ValidationError(f"the body is no OTLP trace export: {error}") from error
    return [
        Span(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            name=span.name,
            start_ms=span.start_time_unix_nano // 1_000_000,
            end_ms=span.end_time_unix_nano // 1_000_000,
            attributes=_attributes(span.attributes),
            resource=_attributes(group.resource.attributes),
            events=tuple(SpanEvent(e.name, _attributes(e.attributes)) for e in span.events),
            is_error=span.status.code == STATUS_ERROR,
            status_message=span.status.message,
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def partial_success(num_rejected: int, message: str) -> bytes:
    """An ExportTraceServiceResponse; empty when nothing was rejected."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    response = ExportTraceServiceResponse()
    if num_rejected:
        partial = ExportTracePartialSuccess(rejected_spans=num_rejected, error_message=message)
        response.partial_success.CopyFrom(partial)
    said: bytes = response.SerializeToString()
    return said


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value, 0) for pair in pairs}


def _value(value: Any, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth > _DEEPEST:
        return None
    if kind == "array_value":
        return [_value(each, depth + 1) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value, depth + 1) for each in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind)


def read_json(body: bytes) -> list[Span]:
    """The spans of an export in JSON; unknown keys are passed over, as the specification asks.

    Raises:
        ValidationError: the body is none.
    """
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationError(f"the body is no OTLP trace export: {error}") from error
    except RecursionError as error:
        message = "the body is no OTLP trace export: it nests too deep to be read"
        raise ValidationError(message) from error
    if not isinstance(request, dict):
        raise _other(request, "$", "an object")
    return [
        _json_span(span, resource, place)
        for group, at in _objects(request, "resourceSpans", "$")
        for resource in [_json_resource(group, at)]
        for scope, within in _objects(group, "scopeSpans", at)
        for span, place in _objects(scope, "spans", within)
    ]


def _objects(holder: dict[str, Any], key: str, at: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of an array, each with its place."""
    held = holder.get(key) or []
    if not isinstance(held, list):
        raise _other(held, f"{at}.{key}", "an array")
    for i, each in enumerate(held):
        place = f"{at}.{key}[{i}]"
        if not isinstance(each, dict):
            raise _other(each, place, "an object")
        yield each, place


def _other(found: Any, place: str, expected: str) -> ValidationError:
    what = _JSON_NAMES[type(found)]
    message = f"the body is no OTLP trace export: {place}: expected {expected}, found {what}"
    return ValidationError(message, path=place)


def _json_resource(group: dict[str, Any], place: str) -> dict[str, Any]:
    try:
        return _json_attributes((group.get("resource") or {}).get("attributes"))
    except _ILL_FORMED as error:
        message = f"{place}.resource: expected attributes, each with key and value"
        raise ValidationError(f"the body is no OTLP trace export: {message}") from error


def _json_span(span: dict[str, Any], resource: dict[str, Any], place: str) -> Span:
    try:
        status = span.get("status") or {}
        return Span(
            trace_id=bytes.fromhex(span["traceId"]).hex(),
            span_id=bytes.fromhex(span["spanId"]).hex(),
            name=str(span.get("name", "")),
            start_ms=int(span.get("startTimeUnixNano", 0)) // 1_000_000,
            end_ms=int(span.get("endTimeUnixNano", 0)) // 1_000_000,
            attributes=_json_attributes(span.get("attributes")),
            resource=resource,
            events=tuple(
                SpanEvent(str(e.get("name", "")), _json_attributes(e.get("attributes")))
                for e in span.get("events") or ()
            ),
            is_error=status.get("code") in (STATUS_ERROR, "STATUS_CODE_ERROR"),
            status_message=str(status.get("message", "")),
        )
    except _ILL_FORMED as error:
        message = (
            f"{place}: expected a span: traceId and spanId in hexadecimal, times as digits,"
            " attributes each with key and value"
        )
        raise ValidationError(f"the body is no OTLP trace export: {message}") from error


def _json_attributes(pairs: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {str(pair["key"]): _json_value(pair.get("value"), 0) for pair in pairs or ()}


def _json_value(value: dict[str, Any] | None, depth: int) -> Any:
    if not value or depth > _DEEPEST:
        return None
    [(kind, held), *_] = value.items()
    if kind == "intValue":
        return int(held)  # 64-bit integers are text
    if kind == "arrayValue":
        return [_json_value(each, depth + 1) for each in held.get("values") or ()]
    if kind == "kvlistValue":
        return {
            str(each["key"]): _json_value(each.get("value"), depth + 1)
            for each in held.get("values") or ()
        }
    return held
