"""What a batch of events comes to, whatever the database: the groups they join, and what became of each."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from honed.ports import Disposition, IncomingEvent

ALL_ATTEMPTS: Final = 0
"""In `late_outcomes` instead of a group: the outcome is about its `episode_id`, or all attempts of its `group_id`."""


class Written(NamedTuple):
    """What became of a batch."""

    dispositions: list[Disposition]
    found_closed: bool
    """Whether an outcome found its group closed, so that `late_outcomes` has rows."""


Stored = tuple[int, IncomingEvent]
"""A record's id and its event."""


class Group:
    """What a batch adds to one group."""

    __slots__ = ("closes", "first_ms", "last_ms", "members")

    def __init__(self, received_ms: int) -> None:
        self.members: list[Stored] = []
        self.first_ms = self.last_ms = received_ms
        self.closes = False


_ID_MAX: Final = 500
"""Characters; an index of PostgreSQL takes 2,700 bytes."""
UNFIT: Final = (
    f"an id with NUL, or with more than {_ID_MAX} characters, cannot be stored on PostgreSQL"
)


def is_fit_for_server(event: IncomingEvent) -> bool:
    """Whether PostgreSQL can hold the event's ids: its text knows no NUL."""
    texts = (event.event_id, event.task_id, event.group_id, event.session_id, event.receipt_id)
    return not any(text and (len(text) > _ID_MAX or "\0" in text) for text in texts)


def by_group(stored: Sequence[Stored]) -> dict[tuple[str, str], Group]:
    """The groups that events join, by learn model and key."""
    groups: dict[tuple[str, str], Group] = {}
    for row in stored:
        event = row[1]
        for learn_model, key, closes in event.groups:
            group = groups.get((learn_model, key))
            if group is None:
                group = groups[learn_model, key] = Group(event.received_ms)
            group.members.append(row)
            group.last_ms = event.received_ms
            group.closes = group.closes or closes
    return groups


def differing(rows: Sequence[Stored], known: Mapping[str, tuple[int, bytes]]) -> list[Stored]:
    """The events that came with other bytes than those stored under their ids.

    What is kept of them may be the same all the same: an import brings a line as it was redacted, a client as it
    was sent.
    """
    return [
        (own_id, event)
        for own_id, event in rows
        if event.event_id is not None and known[event.event_id][1] != event.digest
    ]


def disposition_of(
    row: Stored, known: Mapping[str, tuple[int, bytes]], same: Collection[int] = ()
) -> Disposition:
    """What became of an event.

    Args:
        row: the event, with the id that its record has if it is new.
        known: record id and digest of those that are stored, by event id.
        same: the rows of which the same is kept as is stored, whatever their digest.
    """
    own_id, event = row
    if event.event_id is None:
        return "stored"
    record_id, digest = known[event.event_id]
    if record_id == own_id:
        return "stored"
    return "duplicate" if digest == event.digest or own_id in same else "conflict"
