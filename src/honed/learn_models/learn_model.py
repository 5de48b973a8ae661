"""What a learn model promises: records in, episodes out; an episode in, training data out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from honed.domain.episode import Episode, EpisodeLike
from honed.domain.outcome import Outcome
from honed.domain.records import Arrival, Record
from honed.domain.training_data import TrainingData


class LeftOut(NamedTuple):
    """Something of an episode that is not learned from."""

    what: str
    reason: str
    turn: int | None = None
    """Its index in the training data's messages; None when it is not in them."""


class LearnModel(Protocol):
    """How records become episodes and episodes become training data. Pure: no I/O, no clock."""

    @property
    def name(self) -> str:
        """The name that config, tables and files use."""

    @property
    def objective(self) -> str:
        """What the model learns, in one sentence."""

    def group_key(self, arrival: Arrival) -> str | None:
        """The key of its group; None when it is not this model's business.

        Asked of every event before its ack, and of the event itself: making a record takes 2 us. An event without an
        `event_id`, known by its content alone, comes as its record.
        """

    def is_closing(self, arrival: Arrival) -> bool:
        """Whether it ends its group: an outcome, or an action `done`."""

    def is_complete(self, records: Sequence[Record]) -> bool:
        """Whether a group needs no further record."""

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> Sequence[EpisodeLike]:
        """The episodes of one group's records, in order of arrival; of any class that has an episode's parts.

        Args:
            records: the records of one group.
            now_ms: when the episodes are made, Unix milliseconds.
            final: the group has gone idle; build from what there is.

        Raises:
            LearnError: the group cannot be read; the message names it. Its records stay.
        """

    def evaluate(self, records: Sequence[Record]) -> Outcome:
        """How the attempt ended, from its records alone."""

    def convert(self, episode: Episode, *, available_actions: Sequence[str] = ()) -> TrainingData:
        """The training data of one episode.

        Args:
            episode: an episode that this model built.
            available_actions: the scenario's distinct actions, for models whose prompt lists them.

        Raises:
            LearnError: the episode cannot teach; the message names it.
        """

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """What of an episode `convert` leaves out, or marks as not to be learned, and why."""
