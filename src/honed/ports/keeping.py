"""What is taken out of a store again: on somebody's wish, or because it is old."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

WhoseKind = Literal["episode", "task", "group", "session", "agent", "user"]


class Whose(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose data: all that belongs to one episode, task, group, session, agent or user."""

    kind: WhoseKind
    name: str


class Extent(NamedTuple):
    """What hangs together and can only go together."""

    record_ids: frozenset[int]
    group_ids: frozenset[int]
    episode_ids: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.record_ids or self.group_ids or self.episode_ids)


class Room(NamedTuple):
    """Room that a database takes on disk."""

    used_bytes: int
    """By data and their indexes."""
    free_bytes: int
    """Inside its file, for new data."""

    @property
    def size_bytes(self) -> int:
        """All of the file."""
        return self.used_bytes + self.free_bytes


class Aged(Struct, frozen=True, kw_only=True):
    """What may go because of its age: all that arrived before a time, Unix milliseconds; None keeps all."""

    loose_before_ms: int | None = None
    """Records that are part of no attempt: evaluations, probes, what came too late."""
    unlabelled_before_ms: int | None = None
    """Attempts that ended without an outcome."""
    seen_before_ms: int | None = None
    """Attempts with an outcome that a training has had the chance to learn from."""
    unseen_before_ms: int | None = None
    """Attempts with an outcome that none has."""
    passed_before_ms: int | None = None
    """Attempts that a training has had the chance to learn from, with an outcome or without."""


class Keeping(Protocol):
    """Takes data out of a store; totals and counters never go back."""

    async def find(self, whose: Whose) -> Extent:
        """All that belongs to them, and all that cannot stay without it; empty when there is nothing."""

    async def aged(self, aged: Aged, *, limit: int) -> Extent:
        """The oldest of what may go, `limit` attempts at most."""

    async def remove(
        self, extent: Extent, *, forever: bool, while_aged: Aged | None = None
    ) -> None:
        """Delete it, in transactions short enough for events to pass between them.

        With `forever`, its events are repeats when they are sent again. What was interrupted can be done again.
        """

    async def learned_from(self, episode_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The adapters that were trained on any of the episodes, and on which of them."""

    @property
    def out_of_reach(self) -> tuple[str, ...]:
        """What may still hold what was removed when it is scrubbed, in words: the files of a server."""

    async def scrub(self) -> bool:
        """Leave no byte of what was removed in the store's files; False when readers kept it from that."""

    async def room(self) -> Room | None:
        """What the data take; None where the database does not tell."""

    async def give_back(self, on_step: Callable[[Room], None]) -> int:
        """Give the room of what was removed back to the disk, in steps that events can pass; how many bytes went."""

    async def compact(self) -> int:
        """Write the store anew without its gaps, and scrub it; bytes that were given back."""
