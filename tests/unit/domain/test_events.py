"""Events: every type reads, writes, becomes one class of record, and names what is wrong."""

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.domain.events import (
    EVENT_TYPES,
    ActionEvent,
    ActionResult,
    Envelope,
    Event,
    OutcomeEvent,
    format_event,
    parse_event,
)
from honed.domain.outcome import Success
from honed.domain.records import (
    ActionRecord,
    LearnStatsRecord,
    LlmCallRecord,
    Record,
    RecordFields,
    StrategyAdviceRecord,
    by_worker,
    group_by_worker,
    record_from_event,
    records_of,
)
from honed.errors import ValidationError

ENVELOPE: dict[str, Any] = {
    "event_id": "e-1",
    "scenario": "air",
    "agent": "a",
    "role": "worker",
    "user": "u",
    "session_id": "s",
    "task_id": "t",
    "group_id": "g",
    "parent_task_id": "p",
    "tags": {"k": "v"},
    "train": False,
    "trust": "untrusted",
    "purpose": "evaluation",
    "timestamp_ms": 1_772_442_123_456,
}
TURN = {"role": "assistant", "content": "yes"}
OWN: dict[str, dict[str, Any]] = {
    "action": {
        "id": "0000000017000301",
        "tick": 23,
        "worker_id": 3,
        "action": "read_logs",
        "target": "billing-api",
        "result": {
            "success": True,
            "output": "3 timeouts",
            "error": None,
            "discoveries": 2,
            "kpi_contribution": 0.25,
        },
        "duration_ms": 418,
        "context": {
            "selection_logic": "ucb1",
            "from_guidance": True,
            "previous_action": "check_status",
            "lora": "air@1",
            "observation": "slow checkout",
            "extra": {"agent": "sre-2"},
        },
    },
    "llm_call": {
        "messages": [{"role": "user", "content": "hi"}],
        "response_message": TURN,
        "model": "m",
        "receipt_id": "r",
        "adapter_id": "air@1",
        "worker_id": 3,
    },
    "outcome": {"outcome": {"type": "success", "score": 1.0}, "receipt_id": "r", "source": "judge"},
    "dependency_graph_inference": {
        "prompt": "p",
        "response": "r",
        "available_actions": ["a"],
        "discover_order": ["a"],
        "not_discover_order": [],
        "model": "m",
        "endpoint": "e",
        "latency_ms": 1,
        "success": True,
    },
    "strategy_advice": {
        "tick": 1,
        "advisor": "a",
        "current_strategy": "ucb1",
        "recommended": "greedy",
        "should_change": True,
        "confidence": 0.5,
        "reason": "r",
        "frontier_count": 1,
        "total_visits": 1,
        "failure_rate": 0.5,
        "latency_ms": 1,
        "success": True,
    },
    "learn_stats_snapshot": {
        "outcome": {"type": "unknown"},
        "total_ticks": 1,
        "total_actions": 1,
        "stats": {"visits": 3},
    },
}


def read(kind: str, **changed: Any) -> Event:
    return parse_event(msgspec.json.encode({"type": kind} | ENVELOPE | OWN[kind] | changed))


@pytest.mark.feature("SE-046")
def test_the_samples_name_every_type() -> None:
    """The tests below see every event type."""
    assert [cls.__struct_config__.tag for cls in EVENT_TYPES] == list(OWN)
    assert set(EVENT_TYPES) == set(get_args(Event))


@pytest.mark.feature("SE-206")
@pytest.mark.parametrize("kind", OWN)
def test_an_event_round_trips(kind: str) -> None:
    """An event survives its JSON, envelope and all."""
    event = read(kind)
    assert parse_event(format_event(event)) == event
    assert {name: getattr(event, name) for name in ENVELOPE} == ENVELOPE


@pytest.mark.feature("SE-046")
def test_every_event_type_becomes_one_class_of_record() -> None:
    """Each type has one conversion, no two share a class, and no class of record is left over."""
    classes = [type(record_from_event(read(kind), received_ms=1)) for kind in OWN]
    assert len(classes) == len(set(classes)) == len(EVENT_TYPES)
    assert set(classes) == set(get_args(Record))


@pytest.mark.feature("SE-038")
@pytest.mark.parametrize("kind", OWN)
def test_a_record_keeps_the_envelope_and_the_fields(kind: str) -> None:
    """Every field of the event that the record has too is taken over, and it survives its JSON."""
    event = read(kind)
    record = record_from_event(event, received_ms=1, record_id=7)
    shared = set(event.__struct_fields__) & set(record.__struct_fields__)
    assert set(RecordFields.__struct_fields__) - {"record_id"} <= shared
    assert {n: getattr(record, n) for n in shared} == {n: getattr(event, n) for n in shared}
    assert (record.record_id, record.may_teach) == (7, False)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


@pytest.mark.feature("SE-039")
def test_an_action_record_keeps_result_and_context() -> None:
    """Output, discoveries, KPI share and what led to the action stay with the record."""
    record = record_from_event(read("action"), received_ms=1)
    assert isinstance(record, ActionRecord)
    sample = OWN["action"]
    for name, value in (sample["result"] | sample["context"]).items():
        assert getattr(record, name) == value


@pytest.mark.feature("SE-039")
def test_an_action_needs_no_more_than_what_was_done() -> None:
    """Everything else has a default, and every field of the record comes from the event."""
    result = {"success": True}
    line = msgspec.json.encode(
        {"task_id": "other", "tick": 2, "worker_id": 1, "action": "look", "result": result}
    )
    record = record_from_event(parse_event(line), received_ms=9)
    assert record == ActionRecord(
        timestamp_ms=9, task_id="other", tick=2, worker_id=1, action="look"
    )
    assert (record.success, record.duration_ms, record.discoveries) == (True, 0, 0)
    assert (record.from_guidance, record.extra, record.kpi_contribution) == (False, {}, None)
    full = record_from_event(read("action"), received_ms=1)
    defaults = {
        name
        for name in ActionRecord.__struct_fields__
        if getattr(full, name) == getattr(record, name) and name != "record_id"
    }
    assert defaults == {"error", "success"}  # the sample has no error, and succeeded


@pytest.mark.feature("SE-042")
def test_advice_keeps_its_fourteen_fields() -> None:
    """It recommends a change exactly when it says that one should be made."""
    fields = (*OWN["strategy_advice"], "timestamp_ms", "error")
    assert len(fields) == 14
    event = read("strategy_advice", error="slow")
    record = record_from_event(event, received_ms=1)
    assert isinstance(record, StrategyAdviceRecord)
    assert {name: getattr(record, name) for name in fields} == (
        OWN["strategy_advice"] | {"timestamp_ms": ENVELOPE["timestamp_ms"], "error": "slow"}
    )
    assert (record.recommends_change, record.is_success) == (True, False)
    kept = record_from_event(read("strategy_advice", should_change=False), received_ms=1)
    assert isinstance(kept, StrategyAdviceRecord)
    assert (kept.recommends_change, kept.is_success) == (False, True)


def test_a_missing_time_is_the_time_of_arrival() -> None:
    """An event that names no time happened when it came."""
    assert record_from_event(read("action", timestamp_ms=None), received_ms=5).timestamp_ms == 5
    assert record_from_event(read("action"), received_ms=5).timestamp_ms == ENVELOPE["timestamp_ms"]


def test_statistics_as_text() -> None:
    """Older engines send statistics as JSON text."""
    event = read("learn_stats_snapshot", stats=None, stats_json='{"visits": 4}')
    record = record_from_event(event, received_ms=1)
    assert isinstance(record, LearnStatsRecord)
    assert record.stats == {"visits": 4}


@pytest.mark.feature("SE-206")
def test_a_line_without_type_is_an_action() -> None:
    """The oldest form of an event needs no type; unknown keys of newer sources are ignored."""
    line = b'{"task_id":"t","tick":0,"worker_id":0,"action":"a","result":{"success":true},"new":1}'
    event = parse_event(line)
    assert event == ActionEvent(
        task_id="t", tick=0, worker_id=0, action="a", result=ActionResult(success=True)
    )
    assert record_from_event(event, received_ms=1).may_teach


@pytest.mark.feature("SE-059", "SE-208")
@pytest.mark.parametrize(
    ("kind", "changed", "path"),
    [
        ("action", {"result": {"success": "yes"}}, "$.result.success"),
        ("action", {"result": {}}, "$.result.success"),
        ("action", {"task_id": None}, "$.task_id"),
        ("action", {"action": ""}, "$.action"),
        ("action", {"action": "x" * 201}, "$.action"),
        ("action", {"tick": -1}, "$.tick"),
        ("action", {"worker_id": 65_536}, "$.worker_id"),
        ("action", {"event_id": ""}, "$.event_id"),
        ("action", {"event_id": "x" * 65}, "$.event_id"),
        ("action", {"purpose": "fun"}, "$.purpose"),
        ("action", {"trust": "maybe"}, "$.trust"),
        ("action", {"train": "no"}, "$.train"),
        ("action", {"tags": {"a": 1}}, "$.tags[...]"),
        ("outcome", {"outcome": {"type": "success", "score": 2}}, "$.outcome.score"),
        ("outcome", {"outcome": {"type": "draw"}}, "$.outcome.type"),
        ("llm_call", {"messages": [TURN, {"role": "wizard"}]}, "$.messages[1].role"),
        ("strategy_advice", {"confidence": 1.5}, "$.confidence"),
    ],
)
def test_the_error_names_the_field(kind: str, changed: dict[str, Any], path: str) -> None:
    """What is wrong is named by its path."""
    with pytest.raises(ValidationError) as caught:
        read(kind, **changed)
    assert caught.value.path == path


@pytest.mark.feature("SE-208")
def test_missing_fields_are_named() -> None:
    """A required field that is absent is named too."""
    with pytest.raises(ValidationError) as caught:
        parse_event(
            b'{"type":"action","task_id":"t","tick":1,"worker_id":1,"result":{"success":true}}'
        )
    assert caught.value.path == "$.action"
    with pytest.raises(ValidationError) as caught:
        parse_event(b'{"task_id":"t","tick":1,"worker_id":1,"action":"a"}')
    assert caught.value.path == "$.result"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"type":"dance"}',
        b'{"type":7}',
        b"\xff\xfe",
        b"[" * 5_000,
        b"{}",
    ],
)
def test_lines_that_are_no_events(line: bytes) -> None:
    """Whatever comes in, the answer is a ValidationError."""
    with pytest.raises(ValidationError):
        parse_event(line)


@given(st.binary(max_size=200))
def test_any_bytes(line: bytes) -> None:
    """No bytes raise anything else."""
    with contextlib.suppress(ValidationError):
        parse_event(line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"later":' + b"[" * 100_000, "nests too deep"),
        (b'{"type":"action","task_id":"\xff"}', "not UTF-8: byte 0xff"),
    ],
    ids=["deep", "not UTF-8"],
)
def test_what_cannot_be_read_is_told_in_the_formats_words(line: bytes, told: str) -> None:
    """The error names no class of the language that it is read with."""
    with pytest.raises(ValidationError) as raised:
        parse_event(line)
    assert told in str(raised.value)
    assert "Error" not in str(raised.value)
    assert "recursion" not in str(raised.value)


def test_infinite_numbers_are_refused() -> None:
    """JSON has no NaN, and events have none either."""
    with pytest.raises(ValidationError):
        parse_event(b'{"type":"outcome","outcome":{"type":"success","score":NaN}}')


@pytest.mark.feature("SE-040")
def test_a_call_succeeds_with_a_text_or_a_tool_call() -> None:
    """An error or an empty answer is no success."""

    def call(**fields: Any) -> LlmCallRecord:
        record = record_from_event(
            parse_event(msgspec.json.encode({"type": "llm_call"} | fields)), received_ms=1
        )
        assert isinstance(record, LlmCallRecord)
        return record

    tool_call = {"function": {"name": "look"}}
    assert call(response_message=TURN).is_success
    assert call(response_message={"role": "assistant", "tool_calls": [tool_call]}).is_success
    assert call(response="yes").is_success
    assert not call(response="yes", error="HTTP 500").is_success
    assert not call(response_message={"role": "assistant", "content": ""}).is_success
    assert not call().is_success


@pytest.mark.feature("SE-044", "SE-045")
def test_records_by_class_and_worker() -> None:
    """The parts keep the order of arrival, and grouping by worker is a partition."""
    records = [
        record_from_event(
            read(kind, **({"worker_id": worker} if kind == "action" else {})), received_ms=1
        )
        for kind, worker in [("action", 1), ("outcome", 0), ("action", 2), ("action", 1)]
    ]
    assert records_of(records, ActionRecord) == [records[0], records[2], records[3]]
    assert by_worker(records, 1) == [records[0], records[3]]
    parts = group_by_worker(records)
    assert list(parts) == [1, None, 2]
    assert sum(len(part) for part in parts.values()) == len(records)


def test_values_are_frozen() -> None:
    """An event cannot be changed, only replaced."""
    event = OutcomeEvent(outcome=Success())
    with pytest.raises(AttributeError):
        event.task_id = "t"  # type: ignore[misc]
    assert msgspec.structs.replace(event, task_id="t").task_id == "t"
    assert isinstance(event, Envelope)
