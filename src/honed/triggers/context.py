"""The facts at one instant that triggers judge; made by the loop from the store's counters."""

from dataclasses import dataclass
from datetime import datetime

from honed.domain.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMetrics:
    """Success rates over the episodes with a known outcome."""

    recent_success_rate: float
    overall_success_rate: float
    recent_sample_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """The facts at one instant that triggers judge."""

    now: datetime
    first_started_at: datetime
    """When the scenario first ran; survives restarts."""
    last_train_at: datetime | None = None
    last_train_count: int = 0
    """Episodes that existed when the data of the last training were read."""
    episode_count: int = 0
    """Episodes ever made; never falls."""
    changed_count: int = 0
    """Episodes whose outcome is another than the one that the last training saw."""
    recent: tuple[Outcome, ...] = ()
    """Known outcomes of the episodes that are new or changed since the last training, newest first."""
    overall_success_rate: float = 0.0
    """Over all episodes with a known outcome."""

    @property
    def count(self) -> int:
        """Episodes that wait to be learned from: new ones, and changed ones once more."""
        return max(0, self.episode_count - self.last_train_count) + self.changed_count
