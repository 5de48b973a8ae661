"""Episodes: the records of one attempt at one task, closed."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from honed.domain.outcome import Outcome, Unknown
from honed.domain.records import ActionRecord, R, Record, records_of


class EpisodeMetadata(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known about an episode besides its records."""

    created_at_ms: int
    """When the episode was closed, Unix milliseconds UTC."""
    scenario: str | None = None
    worker_id: int | None = None
    adapter_id: str | None = None
    """The adapter in service when it was made, `scenario@n`; None for the base model."""
    tags: dict[str, str] = {}


class Episode(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt at one task: its records in order of arrival, and how it ended."""

    id: str
    learn_model: str
    records: tuple[Record, ...]
    metadata: EpisodeMetadata
    task_id: str | None = None
    group_id: str | None = None
    outcome: Outcome = Unknown()

    @property
    def actions(self) -> list[ActionRecord]:
        """The actions, in order."""
        return records_of(self.records, ActionRecord)

    def records_of(self, cls: type[R]) -> list[R]:
        """The records of one class, in order."""
        return records_of(self.records, cls)

    @property
    def may_teach(self) -> bool:
        """Whether it may enter a training set: all of its records allow it."""
        return all(record.may_teach for record in self.records)

    @property
    def split_key(self) -> str:
        """What the held-out hash is taken over: the group, else the task, else the episode itself."""
        return self.group_id or self.task_id or self.id


class EpisodeLike(Protocol):
    """What the store and the trainer ask of an episode; a learn model may bring a class of its own."""

    @property
    def id(self) -> str:
        """Time-ordered id (`domain.ids.EpisodeIds`)."""

    @property
    def learn_model(self) -> str:
        """Name of the learn model that built it."""

    @property
    def task_id(self) -> str | None:
        """The attempt."""

    @property
    def group_id(self) -> str | None:
        """Attempts that may be compared."""

    @property
    def records(self) -> Sequence[Record]:
        """The records in order of arrival."""

    @property
    def outcome(self) -> Outcome:
        """How it ended."""

    @property
    def metadata(self) -> EpisodeMetadata:
        """What else is known."""
