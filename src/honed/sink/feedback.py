"""What became of one thing that was said about an attempt; told to the one who said it."""

import uuid
from typing import Any, Literal

import msgspec
from msgspec import Struct

from honed.domain.events import OutcomeEvent, parse_event
from honed.errors import ValidationError

Became = Literal["stored", "known", "withheld", "refused"]
"""Known: stored before, under the same id. Withheld: the operator's rules of consent drop it."""

Reach = Literal["episodes", "open", "nothing"]
"""Open: the attempt has not ended, and gets it when it does. Nothing: its call has not come yet."""


class Taken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to one feedback."""

    event_id: str | None
    became: Became
    message: str | None = None
    """Why it was refused."""
    reach: Reach | None = None
    """None when nothing was stored."""
    episode_ids: tuple[str, ...] = ()
    """The episodes that it is about."""


def format_feedback(told: dict[str, Any]) -> bytes:
    """What somebody said as the line of an outcome event; it gets an id if it has none."""
    return msgspec.json.encode({"event_id": uuid.uuid4().hex} | told | {"type": "outcome"})


def read_feedback(told: dict[str, Any]) -> tuple[OutcomeEvent, bytes]:
    """The outcome event of what somebody said, and its line.

    Raises:
        ValidationError: a field is unknown or wrong, or it does not say what it is about.
    """
    if unknown := told.keys() - {"type", *OutcomeEvent.__struct_fields__}:
        raise ValidationError(f"unknown field {min(unknown)}", path=f"$.{min(unknown)}")
    line = msgspec.json.encode(told)
    event = parse_event(line)
    assert isinstance(event, OutcomeEvent)
    named = event.receipt_id, event.task_id, event.session_id, event.group_id, event.episode_id
    if not any(named):
        raise ValidationError("expected a receipt_id, task_id, session_id, group_id or episode_id")
    return event, line
