"""OpenTelemetry traces as events: `spans` reads the wire format, `mapping` says what GenAI spans mean."""

from honed.sources.otlp.mapping import Mapped, events_of
from honed.sources.otlp.spans import Span, partial_success, read_json, read_protobuf

__all__ = ["Mapped", "Span", "events_of", "partial_success", "read_json", "read_protobuf"]
