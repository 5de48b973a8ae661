"""Sources hand lines to the sink; the sink hands events to the store."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

Disposition = Literal["stored", "duplicate", "conflict", "refused"]
"""What became of an event: stored now, stored before, or refused: its id is known with other content
(`conflict`), or holds what the database cannot (`refused`).
"""


class GroupMark(NamedTuple):
    """The group of one learn model that an event belongs to."""

    learn_model: str
    key: str
    closes: bool
    """Whether the event ends the group."""


class IncomingEvent(NamedTuple):
    """One validated event on its way into the store; the columns of the hot table."""

    event_id: str | None
    digest: bytes
    """16 bytes, keyed, over the line as the client sent it."""
    type: str
    task_id: str | None
    group_id: str | None
    session_id: str | None
    receipt_id: str | None
    worker_id: int | None
    received_ms: int
    body: bytes
    """The line as it is kept, JSON."""
    groups: tuple[GroupMark, ...]


class Rejected(NamedTuple):
    """A line that was not stored, and why."""

    position: int
    """Which line of the batch that was handed in, from 0."""
    code: Literal["invalid", "conflict"]
    message: str
    path: str


class Ingested(NamedTuple):
    """What became of a batch of lines; told after the commit."""

    stored: int
    duplicates: int
    rejected: tuple[Rejected, ...]


class FilePosition(NamedTuple):
    """How far a followed file has been read."""

    path: str
    inode: int
    """Tells the file from another one that takes its name."""
    position: int
    """Bytes from its beginning; every line before is ingested."""
    head: bytes
    """Digest of the file's first bytes: tells it from a file that was cut and filled again."""


class DataSink(Protocol):
    """The one intake that all sources share."""

    async def ingest(
        self, lines: Sequence[bytes], *, position: FilePosition | None = None
    ) -> Ingested:
        """Validate and store events, one JSON object a line; returns after the commit.

        Waits while the store's queue is full. A malformed line is rejected alone; the others are stored.
        A `position` is committed together with the events, however many there are.

        Raises:
            StoreError: nothing of the batch was acknowledged; send it again.
        """

    def reject(self, count: int) -> None:
        """Count lines that a source has refused before they came here: too long, or without an end."""

    def clean(self, text: str) -> str:
        """A text that quotes what came in, without what must not be kept: for log lines and answers."""


class EventSource(Protocol):
    """Something that events come from."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Accept events while the context is open; closing drains what was accepted."""
