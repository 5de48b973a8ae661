"""Snapshots: what a swarm had learned in numbers when a session ended."""

from typing import Any, Final

from msgspec import Struct

from honed.domain.outcome import Outcome
from honed.domain.records import LearnStatsRecord

SNAPSHOT_VERSION: Final = 1


class SnapshotMetadata(Struct, frozen=True, kw_only=True):
    """Whose statistics they are, and of what."""

    scenario: str
    session_id: str
    outcome: Outcome
    """How the session ended."""
    created_at_ms: int
    total_ticks: int
    total_actions: int


class LearningSnapshot(Struct, frozen=True, kw_only=True):
    """The statistics of one session."""

    metadata: SnapshotMetadata
    stats: dict[str, Any]
    """As the swarm told them."""
    version: int = SNAPSHOT_VERSION


def snapshot_of(record: LearnStatsRecord) -> LearningSnapshot:
    """The snapshot that a session's statistics are."""
    return LearningSnapshot(
        metadata=SnapshotMetadata(
            scenario=record.scenario or "",
            session_id=record.session_id or "",
            outcome=record.outcome,
            created_at_ms=record.timestamp_ms,
            total_ticks=record.total_ticks,
            total_actions=record.total_actions,
        ),
        stats=record.stats,
    )
