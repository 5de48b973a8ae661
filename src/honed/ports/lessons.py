"""What trainings read of a store, and what they have learned from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from honed.domain.episode import Episode
from honed.domain.held_text import HeldText
from honed.domain.outcome import Outcome
from honed.domain.verdict import Reach


class Material(NamedTuple):
    """What a training reads, chosen in one moment."""

    episode_ids: tuple[str, ...]
    """New episodes first, then changed ones, then the others; the newest first in each."""
    num_new: int
    num_changed: int
    episode_count: int
    """Episodes ever made, by then."""
    reach: Reach
    """Up to where the store holds what was said, by then."""


class ReadEpisode(NamedTuple):
    """An episode and up to where it tells what was said of it."""

    episode: Episode
    reach: Reach
    is_judged: bool = False
    """Whether its outcome is a model's opinion alone (`domain.composition`)."""


class Lesson(Struct, frozen=True, kw_only=True):
    """An adapter learned from an episode: in which run, and how the episode stood then."""

    model_id: str
    run_id: str
    trained_at_ms: int
    outcome: Outcome | None
    """As the run saw it; None when that was not written down."""
    source: str | None = None
    """Who had said so."""
    version: str | None = None


class Lessons(Protocol):
    """What trainings read and what they settle; every method is one transaction."""

    async def material(self, scenario: str, learn_model: str, *, limit: int) -> Material:
        """The episodes that a training reads, `limit` at most, and up to where what was said of them is stored.

        An episode is new when it was made after the last training that counts, and changed when its outcome is
        another than the one which that training saw, or a better answer was given since.
        """

    async def read(self, episode_ids: Sequence[str]) -> list[ReadEpisode]:
        """Whole episodes in the order of their ids given; those that are gone are left out."""

    async def sides(self, names: Sequence[bytes]) -> dict[bytes, bool]:
        """By name whether it is held out, of those of these names whose side is settled."""

    async def settle_sides(self, sides: Mapping[bytes, bool]) -> frozenset[bytes]:
        """Settle the side of names for ever; those that stand on the other side already, and stay there."""

    async def hold_out(self, texts: Sequence[HeldText]) -> None:
        """Remember for ever what held-out texts say; in transactions of their own, each of a few texts."""

    async def near_held_out(self, texts: Sequence[HeldText], *, least: int) -> list[bool]:
        """Whether each of the texts says what a remembered one says.

        To the word, or nearly: in `least` parts, with one that shares a band with any of the texts given. In
        transactions of their own, each of some texts; the comparison itself is in a thread.
        """

    async def of(self, episode_id: str) -> list[Lesson]:
        """The adapters that learned from an episode, in the order of their training."""
