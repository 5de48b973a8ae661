"""Looking at records by themselves: what came in, whatever became of it."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct

from honed.domain.records import Record
from honed.domain.snapshot import LearningSnapshot


class RecordFilter(Struct, frozen=True, kw_only=True):
    """Which records; None means any, all given fields must hold."""

    type: str | None = None
    """As records name it: `action`, `llm`, `outcome`, ..."""
    worker_id: int | None = None
    task_id: str | None = None
    group_id: str | None = None
    session_id: str | None = None
    since_ms: int | None = None
    """Arrived then or later, Unix milliseconds."""
    until_ms: int | None = None
    """Arrived then or earlier."""
    limit: int | None = None
    offset: int = 0
    newest_first: bool = False


class RecordRow(Struct, frozen=True, kw_only=True):
    """A record in a list: its columns, no body."""

    id: int
    event_id: str | None
    type: str
    task_id: str | None
    group_id: str | None
    session_id: str | None
    receipt_id: str | None
    worker_id: int | None
    received_ms: int


class Records(Protocol):
    """Reads records. For people and reports: a filter reads through the table, which has no index for it."""

    async def get(self, record_ids: Sequence[int]) -> list[Record]:
        """The records of these ids, in their order; ids that are not there are skipped."""

    def query(self, filter: RecordFilter) -> AsyncIterator[Record]:
        """Whole records in order of arrival, read in pages."""

    async def list(self, filter: RecordFilter) -> Sequence[RecordRow]:
        """Records without their bodies."""

    async def count(self, filter: RecordFilter) -> int:
        """How many records fit; `limit` and `offset` are not looked at."""

    async def snapshot(self, scenario: str, session_id: str) -> LearningSnapshot | None:
        """The newest statistics of a session; None when it has told none."""
