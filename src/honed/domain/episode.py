"""Episodes: the records of one attempt at one task, closed."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from honed.domain.outcome import Outcome, Unknown
from honed.domain.records import (
    ActionRecord,
    LlmCallRecord,
    OutcomeRecord,
    R,
    Record,
    records_of,
)


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
    def demonstrations(self) -> list[OutcomeRecord]:
        """What was said with an answer as it should have been, in order."""
        told = records_of(self.records, OutcomeRecord)
        return [record for record in told if record.corrected is not None]

    @property
    def may_teach(self) -> bool:
        """Whether it may enter a training set: all of its records allow it."""
        return all(record.may_teach for record in self.records)

    @property
    def split_key(self) -> str:
        """What the held-out hash is taken over: the group, else task, session, opening, the episode itself.

        Calls that name nothing of these repeat each other's turns when they belong to one conversation; the digest of
        its opening keeps them on one side.
        """
        named = self.group_id or self.task_id
        if named is not None:
            return named
        for record in self.records:
            # a verdict may come after the split was drawn, and must not move the episode
            if record.session_id is not None and not isinstance(record, OutcomeRecord):
                return f"session:{record.session_id}"
        return self._opening or self.id

    @property
    def _opening(self) -> str | None:
        """Digest of the turns up to the first user turn of the first call; None without a call."""
        for call in records_of(self.records, LlmCallRecord):
            if not call.messages and not call.prompt:
                continue
            digest = hashlib.blake2b(digest_size=16)
            for message in call.messages or ():
                digest.update(f"{message.role}\0{message.text}\0".encode("utf-8", "surrogatepass"))
                if message.role == "user":
                    break
            digest.update((call.prompt or "").encode("utf-8", "surrogatepass"))
            return f"opening:{digest.hexdigest()}"
        return None


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


def as_episode(found: EpisodeLike) -> Episode:
    """The episode as the store keeps it, of whatever class the learn model made it."""
    if isinstance(found, Episode):
        return found
    return Episode(
        id=found.id,
        learn_model=found.learn_model,
        task_id=found.task_id,
        group_id=found.group_id,
        records=tuple(found.records),
        outcome=found.outcome,
        metadata=found.metadata,
    )
