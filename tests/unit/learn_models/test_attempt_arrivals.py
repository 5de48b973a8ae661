"""Learn models look at events before their ack, and at records afterwards."""

from typing import Any

import pytest

from honed.domain.events import parse_event
from honed.domain.records import RECORD_TYPES, record_from_event
from honed.learn_models import create
from tests.feed_parts import action, call, failure, line, success
from tests.unit.domain.test_events import ENVELOPE, OWN

EVENTS: list[dict[str, Any]] = [
    *[{"type": kind} | ENVELOPE | OWN[kind] | {"purpose": "work"} for kind in OWN],
    action(name="done"),
    action(session_id="s", purpose="probe"),
    call(task_id="t"),
    call(session_id="s"),
    call(receipt_id="r"),
    call(),
    success(task_id="t"),
    failure(receipt_id="r"),
    failure(),
    {"type": "outcome", "event_id": "c", "task_id": "t", "comment": "hm"},
]


@pytest.mark.parametrize("model", ["chat", "worker_decision_sequence"])
@pytest.mark.parametrize("told", EVENTS, ids=lambda told: told["type"])
def test_an_event_joins_the_group_that_its_record_would_join(
    told: dict[str, Any], model: str
) -> None:
    """Key, end of the group and stored type are the same from the event and from its record."""
    event = parse_event(line(told))
    record = record_from_event(event, received_ms=7)
    asked = create(model)
    assert asked.group_key(event) == asked.group_key(record)
    assert asked.is_closing(event) == asked.is_closing(record)
    assert RECORD_TYPES[type(event)] == record.__struct_config__.tag
