"""Who says what an attempt was worth: programs and models that are asked, and what the store knows of that."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from honed.domain.episode import Episode
from honed.domain.outcome import Outcome


class Answer(NamedTuple):
    """What a verifier says of an episode."""

    outcome: Outcome
    comment: str | None = None
    """Words for people."""
    version: str | None = None
    """Of the verifier, where it knows better than its config."""


class Verifier(Protocol):
    """Says how an attempt ended: a program, a function, a model. `source` and `version` sign what it says."""

    @property
    def source(self) -> str:
        """`verifier:NAME` or `judge:NAME`."""

    @property
    def version(self) -> str | None:
        """Which version of it is asked."""

    async def verify(self, episode: Episode) -> Answer | None:
        """How the episode ended; None when it has nothing to say of it.

        Raises:
            RewardError: it failed on this episode; another one may go well.
            UnreachableError: it cannot be asked at all now.
        """


class Counted(NamedTuple):
    """An episode as alarms compare it."""

    created_at_ms: int
    is_success: bool | None
    """None while nobody has said."""
    num_tool_calls: int | None
    answer_chars: int | None


class Opinion(NamedTuple):
    """What a judge and somebody else have said of the same episode."""

    created_at_ms: int
    source: str
    """The judge."""
    says: bool
    """Success, in the judge's opinion."""
    others_say: bool
    adapter_id: str | None = None
    """The version that answered in that episode."""


class Rewards(Protocol):
    """What the store knows for verifiers, judges and alarms; every method is one transaction, its cost bounded."""

    async def position(self, scenario: str, learn_model: str, source: str) -> str:
        """Up to which episode somebody has been asked; the first time up to the newest that there is."""

    async def advance(
        self, scenario: str, learn_model: str, source: str, *, episode_id: str
    ) -> None:
        """It has been asked up to there."""

    async def episodes_after(
        self, scenario: str, learn_model: str, *, after: str, until_ms: int, limit: int
    ) -> list[Episode]:
        """Whole episodes after that one, made by then, in the order of their ids."""

    async def episodes(self, episode_ids: Sequence[str]) -> list[Episode]:
        """Whole episodes in the order of their ids given; those that are gone are left out."""

    async def group(self, scenario: str, learn_model: str, group_id: str) -> list[str]:
        """The ids of the attempts of a group, oldest first; of a huge one the first ten thousand."""

    async def counted(
        self, scenario: str, learn_model: str, *, before_ms: int, limit: int
    ) -> Sequence[Counted]:
        """The newest episodes made before then, newest first."""

    async def outdated(self, scenario: str, learn_model: str, *, limit: int) -> tuple[int, int]:
        """How many of the newest `limit` episodes have another outcome than their verdicts make by the present
        composition, and how many of those have verdicts at all."""

    async def opinions(self, scenario: str, learn_model: str, *, limit: int) -> Sequence[Opinion]:
        """What judges and others have said of the same episodes, among the `limit` newest verdicts of the store."""
