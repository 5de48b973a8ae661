"""Traces of a real OpenTelemetry exporter, to the daemon's HTTP door."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status, StatusCode, Tracer

from honed.domain.outcome import Success
from honed.domain.records import ActionRecord, LlmCallRecord
from honed.errors import ValidationError
from honed.serve import address_of, listen_on
from honed.sources.http import HttpSource
from honed.sources.otlp import events_of, read_json, read_protobuf
from tests.feed_parts import Intake, open_intake

pytestmark = pytest.mark.anyio

ASKED = [{"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]}]
CALLED = [
    {
        "role": "assistant",
        "parts": [
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Paris"}}
        ],
        "finish_reason": "tool_call",
    }
]
RESULT = [
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]}
]
ANSWERED = [
    {
        "role": "assistant",
        "parts": [{"type": "text", "content": "It rains."}],
        "finish_reason": "stop",
    }
]


class Kept(SpanExporter):
    """Keeps the finished spans, to be exported when the test wants."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def agent(work: Any) -> list[ReadableSpan]:
    """The finished spans of a traced piece of work."""
    kept = Kept()
    provider = TracerProvider(resource=Resource.create({"service.name": "travel"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    work(provider.get_tracer("tests"))
    return kept.spans


def call(tracer: Tracer, said: list[Any], answer: list[Any], **more: Any) -> None:
    with tracer.start_as_current_span("chat tiny") as span:
        span.set_attribute("gen_ai.operation.name", "chat")
        span.set_attribute("gen_ai.request.model", "tiny")
        span.set_attribute("gen_ai.input.messages", json.dumps(said))
        span.set_attribute("gen_ai.output.messages", json.dumps(answer))
        span.set_attribute("gen_ai.usage.input_tokens", 12)
        for name, value in more.items():
            span.set_attribute(name.replace("__", "."), value)


def weather(tracer: Tracer) -> None:
    """An agent that calls a tool and is judged."""
    with tracer.start_as_current_span("invoke_agent travel") as root:
        root.set_attribute("gen_ai.operation.name", "invoke_agent")
        call(
            tracer,
            ASKED,
            CALLED,
            gen_ai__system_instructions='[{"type":"text","content":"Be kind."}]',
        )
        with tracer.start_as_current_span("execute_tool weather") as tool:
            tool.set_attribute("gen_ai.operation.name", "execute_tool")
            tool.set_attribute("gen_ai.tool.name", "weather")
            tool.set_attribute("gen_ai.tool.call.arguments", '{"city": "Paris"}')
            tool.set_attribute("gen_ai.tool.call.result", "rainy")
        call(tracer, [*ASKED, *CALLED, *RESULT], ANSWERED, gen_ai__response__id="resp-1")
        with tracer.start_as_current_span("judge") as judge:
            judge.add_event(
                "gen_ai.evaluation.result",
                {"gen_ai.evaluation.name": "helpful", "gen_ai.evaluation.score.value": 0.75},
            )


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[tuple[Intake, HttpSource, str]]:
    listener = listen_on("127.0.0.1", 0)
    address = address_of(listener)
    async with open_intake(tmp_path / "honed.db") as intake:
        source = HttpSource(listener, intake.sink, line_max=1 << 20, takes_traces=True)
        async with source.open():
            yield intake, source, f"{address}/v1/traces"


async def export(url: str, spans: list[ReadableSpan], **headers: str) -> SpanExportResult:
    def run() -> SpanExportResult:
        exporter = OTLPSpanExporter(endpoint=url, headers=headers)
        try:
            return exporter.export(spans)
        finally:
            exporter.shutdown()

    return await to_thread.run_sync(run)


async def test_a_traced_agent_becomes_an_episode(traced: tuple[Intake, HttpSource, str]) -> None:
    """Calls with tools and results, the tool's action, the evaluation: one attempt, judged."""
    intake, _, url = traced
    assert await export(url, agent(weather)) is SpanExportResult.SUCCESS
    with anyio.fail_after(60):
        made = await intake.episodes.receive()
    assert made.outcome == Success(0.75)
    first, second = made.records_of(LlmCallRecord)
    assert first.messages is not None
    assert [(m.role, m.text) for m in first.messages] == [
        ("system", "Be kind."),
        ("user", "Weather in Paris?"),
    ]
    assert first.response_message is not None
    assert first.response_message.tool_calls is not None
    assert first.response_message.tool_calls[0].function.name == "weather"
    assert second.messages is not None
    assert [m.role for m in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[2].tool_call_id == "c1"
    assert second.response_message is not None
    assert (second.response_message.text, second.receipt_id) == ("It rains.", "resp-1")
    assert second.tags == {"service": "travel"}
    [action] = made.records_of(ActionRecord)
    assert (action.action, action.output, action.success) == ("weather", "rainy", True)


async def test_an_export_that_is_sent_again_adds_nothing(
    traced: tuple[Intake, HttpSource, str],
) -> None:
    """Exporters repeat what was not answered; protobuf or packed, it is the same."""
    intake, _, url = traced
    spans = agent(weather)
    await export(url, spans)
    before = (await intake.store.stats()).num_records
    await export(url, spans)
    stats = await intake.store.stats()
    assert (stats.num_records, stats.num_duplicates, stats.num_conflicts) == (before, before, 0)


async def test_spans_without_content_are_counted(traced: tuple[Intake, HttpSource, str]) -> None:
    """Content capture is off by default in most instrumentations; other spans are passed over."""

    def work(tracer: Tracer) -> None:
        with tracer.start_as_current_span("chat tiny") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
        with tracer.start_as_current_span("GET /"):
            pass

    intake, source, url = traced
    await export(url, agent(work))
    assert source.num_without_content == 1
    assert (await intake.store.stats()).num_records == 0


async def test_a_span_that_cannot_be_read_is_told_and_holds_nothing_up(
    traced: tuple[Intake, HttpSource, str],
) -> None:
    """As the protocol has it: a partial success that names the first fault."""

    def work(tracer: Tracer) -> None:
        call(tracer, ASKED, ANSWERED)
        call(tracer, [{"role": "oracle", "parts": []}], ANSWERED)
        call(tracer, [{"role": "user", "parts": [{"type": "blob", "data": "x"}]}], ANSWERED)

    intake, source, url = traced
    assert await export(url, agent(work)) is SpanExportResult.SUCCESS
    assert (await intake.store.stats()).num_records == 1
    assert source.num_unreadable == 2


async def test_json_and_protobuf_say_the_same(traced: tuple[Intake, HttpSource, str]) -> None:
    """The JSON form is read as well; the events have the same ids and texts."""
    intake, _, url = traced
    body = {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "travel"}}]
                },
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "EEE19B7EC3C1B174",
                                "name": "chat tiny",
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": "1544712661000000000",
                                "attributes": [
                                    _pair("gen_ai.operation.name", "chat"),
                                    _pair("gen_ai.system", "openai"),
                                    _pair("gen_ai.prompt.0.role", "user"),
                                    _pair("gen_ai.prompt.0.content", "Hello"),
                                    _pair("gen_ai.completion.0.role", "assistant"),
                                    _pair("gen_ai.completion.0.content", "Hi"),
                                ],
                            }
                        ]
                    }
                ],
            }
        ]
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(url, json=body)
        assert (answer.status_code, answer.json()) == (200, {})
        number = await client.post(url, json={"resourceSpans": 7})
        assert number.status_code == 400
        assert "ExportTraceServiceRequest as application/json" in number.json()["advice"]
        broken = await client.post(
            url, content=b"\xff\xff", headers={"content-type": "application/x-protobuf"}
        )
        assert broken.status_code == 400
    [group] = await intake.store.open_groups(
        settled_before_ms=0, idle_before_ms=1 << 60, now_ms=1 << 60
    )
    [record] = (await intake.store.group_records([group.id]))[group.id]
    assert isinstance(record, LlmCallRecord)
    assert record.event_id == "5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174"
    assert (record.endpoint, record.latency_ms, record.timestamp_ms) == (
        "openai",
        1000,
        1544712660000,
    )
    assert record.response_message is not None
    assert record.response_message.text == "Hi"


def _pair(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


def test_the_older_span_events_are_read() -> None:
    """As instrumentations before version 1.37 of the conventions wrote them."""

    def work(tracer: Tracer) -> None:
        with tracer.start_as_current_span("chat tiny") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.add_event("gen_ai.system.message", {"content": "Be kind."})
            span.add_event("gen_ai.user.message", {"content": "Hello"})
            span.add_event("gen_ai.choice", {"message": '{"content": "Hi"}', "index": 0})

    [line] = events_of(read_protobuf(_exported(agent(work)))).lines
    event = json.loads(line)
    assert [m["content"] for m in event["messages"]] == ["Be kind.", "Hello"]
    assert event["response_message"]["content"] == "Hi"
    assert event["otel_span"]["mapping"] == 1


def test_the_span_is_kept_beside_the_event() -> None:
    """What the mapping does not know yet is not lost."""

    def work(tracer: Tracer) -> None:
        call(tracer, ASKED, ANSWERED, vendor__temperature=0.3)

    [line] = events_of(read_protobuf(_exported(agent(work)))).lines
    assert json.loads(line)["otel_span"]["attributes"]["vendor.temperature"] == 0.3


def test_a_failed_call_is_a_call_with_an_error() -> None:
    """Without an answer, with what the span says."""

    def work(tracer: Tracer) -> None:
        with tracer.start_as_current_span("chat tiny") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.input.messages", json.dumps(ASKED))
            span.set_attribute("honed.task_id", "t1")
            span.set_status(Status(StatusCode.ERROR, "429"))

    [line] = events_of(read_protobuf(_exported(agent(work)))).lines
    event = json.loads(line)
    assert (event["error"], event["task_id"]) == ("429", "t1")
    assert "response_message" not in event


def test_a_verdict_needs_a_label_or_a_score_that_is_one() -> None:
    """A label decides; a score on some other scale is not guessed at."""

    def work(tracer: Tracer) -> None:
        with tracer.start_as_current_span("judge") as span:
            for label, score in (("fail", 0.9), ("pass", 4), ("", 4), ("", 0.0)):
                name = "gen_ai.evaluation.score"
                said = {f"{name}.label": label, f"{name}.value": score}
                span.add_event("gen_ai.evaluation.result", said)

    def one(number: int) -> list[str]:
        spans = read_protobuf(_exported(agent(work)))
        [span] = [span._replace(events=span.events[number : number + 1]) for span in spans]
        return [json.loads(line)["outcome"]["type"] for line in events_of([span]).lines]

    assert [one(n) for n in range(4)] == [["failure"], ["success"], [], ["failure"]]


def _exported(spans: list[ReadableSpan]) -> bytes:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    body: bytes = encode_spans(spans).SerializeToString()
    return body


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["resourceSpans", "scopeSpans", "spans", "attributes", "key", "value", "traceId",
                 "spanId", "events", "stringValue", "arrayValue", "kvlistValue", "values", "status"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)  # fmt: skip


_SPAN = '{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}'


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("[]", "$: expected an object, found an array"),
        ('{"resourceSpans":5}', "$.resourceSpans: expected an array, found a number"),
        ('{"resourceSpans":[null]}', "$.resourceSpans[0]: expected an object, found null"),
        ('{"resourceSpans":[{"resource":7}]}', "$.resourceSpans[0].resource: expected attributes"),
        (_SPAN % "true", ".scopeSpans[0].spans[0]: expected an object, found true or false"),
        (_SPAN % '{"spanId":"00"}', ".scopeSpans[0].spans[0]: expected a span: traceId"),
        ("[" * 100_000, "nests too deep"),
        ("{", "no OTLP trace export"),
    ],
    ids=["array", "number", "null", "resource", "no span", "no id", "deep", "cut off"],
)
def test_what_is_no_export_is_told_with_its_place(body: str, told: str) -> None:
    """What was expected there and what was found, in JSON's words."""
    with pytest.raises(ValidationError) as raised:
        read_json(body.encode())
    assert told in str(raised.value)
    assert "Error" not in str(raised.value)


@settings(max_examples=300, deadline=None)
@given(_JSON_VALUES)
def test_no_json_breaks_the_reader(value: Any) -> None:
    """It is read, or refused as what it is."""
    with contextlib.suppress(ValidationError):
        events_of(read_json(json.dumps(value).encode()))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    """Neither does what is no protobuf."""
    with contextlib.suppress(ValidationError):
        events_of(read_protobuf(body))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.prompt.0.role",
                        "gen_ai.tool.definitions", "gen_ai.system_instructions"]),
       _JSON_VALUES | st.text())  # fmt: skip
def test_no_attribute_breaks_the_mapping(name: str, value: Any) -> None:
    """A span with odd content is one fault, told, among the others."""
    said = {"gen_ai.operation.name": "chat", "gen_ai.input.messages": ASKED}
    [span] = read_json(
        json.dumps(
            {
                "resourceSpans": [
                    {"scopeSpans": [{"spans": [{"traceId": "00" * 16, "spanId": "00" * 8}]}]}
                ]
            }
        ).encode()
    )
    for held in (value, json.dumps(value)):
        mapped = events_of([span._replace(attributes=said | {name: held})])
        assert len(mapped.lines) + len(mapped.faults) + mapped.num_without_content == 1
