"""The store: records, groups, episodes, runs, models."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from honed.domain.composition import Composition
from honed.domain.episode import Episode, EpisodeLike
from honed.domain.outcome import Outcome
from honed.domain.records import Record
from honed.domain.run import Applied, LearningState, Run
from honed.domain.trained_model import GateResult, Method, TrainedModel
from honed.domain.verdict import Seen
from honed.ports.canaries import Canaries
from honed.ports.intake import Disposition, FilePosition, IncomingEvent
from honed.ports.lessons import Lessons
from honed.ports.reviews import Reviews
from honed.ports.rewards import Rewards
from honed.triggers.context import Needs, TriggerContext


class OpenGroup(NamedTuple):
    """A group of records that has not become an episode yet."""

    id: int
    learn_model: str
    key: str
    closing: bool
    """Whether a record that ends it has arrived."""
    last_ms: int
    """When its newest record arrived, Unix milliseconds."""
    num_records: int


class Closing(NamedTuple):
    """What a group is closed with."""

    group_id: int
    episodes: tuple[Episode, ...]
    num_records: int
    """How many records the episodes were built from."""


class EpisodeFilter(Struct, frozen=True, kw_only=True):
    """Which episodes; None means any, all given fields must hold."""

    learn_model: str | None = None
    scenario: str | None = None
    outcomes: frozenset[str] | None = None
    """Outcome types: `success`, `failure`, `timeout`, `unknown`."""
    min_score: float | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    worker_id: int | None = None
    task_id: str | None = None
    group_id: str | None = None
    limit: int | None = None
    offset: int = 0
    newest_first: bool = False


class EpisodeRow(Struct, frozen=True, kw_only=True):
    """An episode in a list: its index columns, no records."""

    id: str
    learn_model: str
    scenario: str | None
    task_id: str | None
    group_id: str | None
    worker_id: int | None
    outcome: Outcome
    num_records: int
    created_at_ms: int
    adapter_id: str | None


class ModelFilter(Struct, frozen=True, kw_only=True):
    """Which models; None means any, all given fields must hold."""

    scenario: str | None = None
    learn_model: str | None = None
    base_model: str | None = None
    method: Method | None = None
    since_ms: int | None = None
    """Trained then or later, Unix milliseconds."""
    until_ms: int | None = None
    """Trained then or earlier."""
    limit: int | None = None
    offset: int = 0
    newest_first: bool = False


class StoredEvent(NamedTuple):
    """An event as it came."""

    received_ms: int
    body: bytes


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was said about an episode, by whom and when; `domain.verdict` tells which one counts."""

    outcome: Outcome
    source: str | None
    at_ms: int
    version: str | None = None
    """Which version of the source said so."""
    comment: str | None = None
    event_id: str | None = None
    """The event that brought it; None when the learn model judged by itself."""


class Attempts(NamedTuple):
    """What the store has of the attempts that somebody speaks of."""

    episode_ids: tuple[str, ...]
    num_open: int
    """Those that have not become episodes yet."""


class Provenance(NamedTuple):
    """What an episode was made of."""

    events: tuple[StoredEvent, ...]
    """One for each record, in their order."""
    verdicts: tuple[Verdict, ...]
    """Oldest first."""


class StoreStats(Struct, frozen=True, kw_only=True):
    """Counts since the store was made, and of the queue now."""

    num_records: int
    num_episodes: int
    num_duplicates: int
    num_conflicts: int
    num_late: int
    open_groups: int
    queue_depth: int


class Store(Protocol):
    """Where records, episodes, runs and models live. Every method is one transaction."""

    @property
    def lessons(self) -> Lessons:
        """What trainings read, and what they have learned from."""

    @property
    def reviews(self) -> Reviews:
        """What people said about episodes, and the runs that wait for them."""

    @property
    def rewards(self) -> Rewards:
        """What verifiers, judges and alarms ask."""

    @property
    def canaries(self) -> Canaries:
        """Versions that are tried beside the one in service, and what they have done."""

    @property
    def composition(self) -> Composition:
        """How the verdicts on an episode become its outcome here."""

    async def append(
        self, events: Sequence[IncomingEvent], *, position: FilePosition | None = None
    ) -> list[Disposition]:
        """Commit events with those of other callers and say what became of each; waits while the queue is full.

        A `position` is committed in the same transaction as the events.
        """

    async def file_position(self, path: str) -> FilePosition | None:
        """How far a file has been read; None for one that never was."""

    async def forget_file(self, path: str) -> None:
        """Forget the position of a file that is gone."""

    async def open_groups(
        self, *, settled_before_ms: int, idle_before_ms: int, now_ms: int, limit: int = 100
    ) -> list[OpenGroup]:
        """Groups that are due: closing and untouched since `settled_before_ms`, or idle since `idle_before_ms`.

        A group that is held back until after `now_ms` is not due. The one without a record for longest comes first.
        """

    async def next_due_ms(self, *, settle_ms: int, idle_ms: int) -> int | None:
        """When the next group falls due, Unix milliseconds, by the same rule; `idle_ms` 0: idle ones never do."""

    async def hold_groups(self, group_ids: Sequence[int], *, until_ms: int) -> None:
        """Keep groups from being due until then, each until it gets another record."""

    async def group_records(self, group_ids: Sequence[int]) -> dict[int, list[Record]]:
        """The records of each group in order of arrival; a record that cannot be read fails the call."""

    async def close_groups(self, closings: Sequence[Closing]) -> set[int]:
        """Store the groups' episodes, link their records, move the counters and close them, all or nothing.

        Gives the ids of the closed ones. A group that has other than the `num_records` that were read is left
        open: read it again.
        """

    async def add_episode(
        self,
        episode: EpisodeLike,
        lines: Sequence[IncomingEvent],
        *,
        verdicts: Sequence[Verdict] = (),
    ) -> bool:
        """Store a ready-made episode with its events and the verdicts on it, the newest being its outcome.

        False, and nothing changes, when the store has it: the same id, or the same worker's attempt at the same
        task, session or call. Raises ValidationError when an event is known with other content.
        """

    async def provenance(self, episode_ids: Sequence[str]) -> dict[str, Provenance]:
        """The events and verdicts of episodes."""

    async def attempts(
        self,
        keys: Sequence[tuple[str, str]],
        receipt_id: str | None = None,
        group_id: str | None = None,
    ) -> Attempts:
        """The attempts of these `(learn model, group key)`, else those that the receipt's call is part of, else
        those of the group that are episodes.
        """

    async def get_episode(self, episode_id: str) -> Episode:
        """The episode with its records; raises NotFoundError."""

    def query_episodes(self, filter: EpisodeFilter) -> AsyncIterator[Episode]:
        """Whole episodes in id order, read in pages."""

    async def list_episodes(self, filter: EpisodeFilter) -> list[EpisodeRow]:
        """Episodes without their records."""

    async def count_episodes(self, filter: EpisodeFilter) -> int:
        """How many episodes fit."""

    async def set_outcome(
        self, episode_id: str, outcome: Outcome, *, source: str | None = None
    ) -> None:
        """Append a verdict; the newest counts. Raises NotFoundError."""

    async def distinct_actions(self, scenario: str) -> list[str]:
        """Names of the scenario's actions, sorted."""

    async def start_scenario(
        self, scenario: str, learn_model: str, *, now_ms: int
    ) -> LearningState:
        """What is remembered of the scenario; its first start is written down now if it is new."""

    async def trigger_context(
        self, scenario: str, learn_model: str, *, now_ms: int, needs: Needs
    ) -> TriggerContext:
        """The facts for the trigger, from counters and indexes; raises TriggerError when they cannot be read.

        Of `recent` and `runs` there is as much as it `needs`.
        """

    async def add_run(self, run: Run) -> None:
        """Write down a run that starts."""

    async def end_run(
        self,
        run: Run,
        *,
        trained_count: int | None = None,
        seen: Seen | None = None,
        backoff_s: float | None = None,
    ) -> None:
        """Write down how a run ended.

        Args:
            run: with its final state.
            trained_count: episodes that existed when its data were read; moves `last_train_*` on when given.
            seen: which verdicts it has seen, for what was said later is new to the next; None for all of them.
            backoff_s: seconds to wait before the next try; 0 clears a back-off, None leaves it.
        """

    async def skip_run(
        self, run: Run, *, trained_count: int | None = None, seen: Seen | None = None
    ) -> None:
        """Write down a run that ended before it began, and that nobody need review it any more.

        Args:
            run: with its final state; `review_id` names the review that it was.
            trained_count: as in `end_run`.
            seen: as in `end_run`.
        """

    async def list_runs(self, scenario: str, *, limit: int = 100) -> list[Run]:
        """Runs, newest first."""

    async def next_model_number(self, scenario: str) -> int:
        """A number for the scenario's next adapter; rises, never given twice."""

    async def add_model(self, model: TrainedModel) -> None:
        """Register a trained model."""

    async def set_gate(self, model_id: str, gate: GateResult) -> None:
        """Keep the verdict on a model."""

    async def get_model(self, model_id: str) -> TrainedModel:
        """The model; raises NotFoundError."""

    async def list_models(self, scenario: str, *, limit: int = 100) -> list[TrainedModel]:
        """Models, newest first."""

    async def latest_model(
        self, learn_model: str, scenario: str | None = None
    ) -> TrainedModel | None:
        """The newest model of a learn model; None when there is none."""

    async def query_models(self, filter: ModelFilter) -> list[TrainedModel]:
        """Models that fit, in the order in which they were trained."""

    async def delete_model(self, model_id: str, *, files: bool = False) -> bool:
        """Take a model out of the register, with `files` its folder too; False when there is none of that id.

        Its number is not given again.

        Raises:
            ValidationError: it serves, or a rollback may go back to it.
            StoreError: it is out, but its folder cannot be removed.
        """

    async def history(self, scenario: str) -> list[Applied]:
        """What was in service, newest last, current included."""

    async def push_applied(
        self, scenario: str, model_id: str, *, expected: str | None, max_history: int, now_ms: int
    ) -> bool:
        """Write down that a model is in service, if `expected` still was (compare-and-swap); False if not."""

    async def pop_applied(self, scenario: str, *, expected: str) -> bool:
        """Take the current entry out of the history, if it is still `expected`; False if not."""

    async def stats(self) -> StoreStats:
        """Counts for `honed status`."""

    async def has_records(self) -> bool:
        """Whether any event was ever stored; cheap."""
