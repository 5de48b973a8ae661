"""What a learn model promises: records in, episodes out; an episode in, training data out.

`LearnModel` is what the rooms ask for. `LearnModelMixin` brings all of it that does not depend on what
is learned, so a model of one's own has to say only its name and objective, and how it evaluates,
builds and converts.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from honed.domain.episode import Episode, EpisodeLike
from honed.domain.events import ActionEvent
from honed.domain.outcome import Outcome
from honed.domain.records import Arrival, Record, record_from_event
from honed.domain.trained_model import Method
from honed.domain.training_data import TrainingData
from honed.errors import LearnError
from honed.learn_models import attempt

_FAULT_MAX: Final = 1_000
"""Characters of a fault of somebody's class; it may quote a whole conversation."""
_OWN_FAULT: Final = "this is a fault of the learn model's own code"


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
        """The name that tables and files use; for a built-in model the one that the config uses too."""

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


class Converted(NamedTuple):
    """What came of a batch of episodes."""

    rows: list[TrainingData]
    """In the order of their episodes."""
    errors: list[LearnError]
    """One for each episode that gave no row."""


class LearnModelMixin:
    """The parts of a learn model that are the same for most of them.

    A group is a task, which an outcome or an action `done` completes. A class of one's own adds `name`,
    `objective`, `build_episodes`, `evaluate` and `convert`.
    """

    name: str
    objective: str
    method: Method = "sft"
    """What a run on its rows does: imitate (`sft`), or prefer (`dpo`)."""

    def group_key(self, arrival: Arrival) -> str | None:
        """The task of work; what names none, evaluations and probes belong to no attempt."""
        if arrival.purpose != "work" or not arrival.task_id:
            return None
        return attempt.task_key(arrival.task_id)

    def is_closing(self, arrival: Arrival) -> bool:
        """An outcome, or an action `done`."""
        return attempt.is_closing(arrival)

    def is_complete(self, records: Sequence[Record]) -> bool:
        """Whether a closing record is there."""
        return any(map(self.is_closing, records))

    def left_out(self, episode: Episode) -> Sequence[LeftOut]:
        """Nothing."""
        return []

    def forks(self, episode: Episode) -> Mapping[str, int]:
        """Reason to number of conversations of an attempt that are not in its row; most models know none."""
        return {}

    def episode(self: LearnModel, records: Sequence[Record], *, now_ms: int) -> Episode:
        """An episode of these records, judged by `evaluate`."""
        return attempt.episode(self.name, records, self.evaluate(records), now_ms=now_ms)

    def convert_batch(
        self: LearnModel, episodes: Sequence[Episode], *, available_actions: Sequence[str] = ()
    ) -> Converted:
        """Rows and errors; an episode that gives no row does not stop the others."""
        made = Converted([], [])
        for episode in episodes:
            try:
                made.rows.append(convert(self, episode, available_actions=available_actions))
            except LearnError as error:
                made.errors.append(error)
        return made

    def build_episodes_from_actions(
        self: LearnModel,
        events: Sequence[ActionEvent],
        *,
        now_ms: int | None = None,
        final: bool = False,
    ) -> list[EpisodeLike]:
        """The episodes of a swarm's actions that went past no store, group by group in order of first events.

        Args:
            events: actions in order of arrival.
            now_ms: when the episodes are made; default: when the newest event happened.
            final: unfinished groups become episodes too.
        """
        times = [event.timestamp_ms for event in events if event.timestamp_ms is not None]
        at_ms = max(times, default=0) if now_ms is None else now_ms
        groups: dict[str, list[Record]] = {}
        for event in events:
            record = record_from_event(event, received_ms=at_ms)
            if key := self.group_key(record):
                groups.setdefault(key, []).append(record)
        return [
            episode
            for records in groups.values()
            if final or self.is_complete(records)
            for episode in self.build_episodes(records, now_ms=at_ms, final=final)
        ]


def method_of(model: LearnModel) -> Method:
    """What its rows are for; of a class that does not say so: imitation."""
    method: Method = getattr(model, "method", "sft")
    return method


def forks_of(model: LearnModel, episode: Episode) -> Mapping[str, int]:
    """Conversations of an attempt that are not in its row, by why they began; of a class that knows none: none."""
    forks = getattr(model, "forks", None)
    return forks(episode) if forks else {}


def convert(
    model: LearnModel, episode: Episode, *, available_actions: Sequence[str] = ()
) -> TrainingData:
    """The training data of one episode, of a model that may be anybody's.

    Raises:
        LearnError: it gives none, for whatever reason; the message names the episode.
    """
    try:
        given: object = model.convert(episode, available_actions=available_actions)
    except LearnError as error:
        if error.episode_id is None:
            error.episode_id = episode.id
        if episode.id in str(error):
            raise
        raise LearnError(
            f"episode {episode.id}: {error}", episode_id=episode.id, reason=error.reason
        ) from error
    except Exception as error:  # a fault in somebody's class costs one row, not the run
        fault = f"{type(error).__name__}: {error}"
        fault = fault if len(fault) <= _FAULT_MAX else f"{fault[:_FAULT_MAX]}..."
        raise LearnError(
            f"episode {episode.id}: learn model {model.name} failed: {fault}",
            episode_id=episode.id,
            reason=f"the learn model failed with {type(error).__name__}",
            advice=_OWN_FAULT,
        ) from error
    if isinstance(given, TrainingData):
        return given
    raise LearnError(
        f"episode {episode.id}: learn model {model.name} gave a {type(given).__name__}: expected a ChatExample, "
        "PreferencePair or LabelledExample",
        episode_id=episode.id,
        reason="the learn model gave no training data",
        advice=_OWN_FAULT,
    )
