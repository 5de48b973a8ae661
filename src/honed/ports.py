"""What each room promises: the Protocols that daemon, loop and rooms know each other by.

Data flows down this page: a source hands lines to the sink, the sink to the store, the loop asks the store for
facts, the training sets for data, the processor for a model, the gate for a verdict, the applier for service.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from honed.domain.episode import Episode
from honed.domain.job import EpisodeScore, Progress, TrainSettings
from honed.domain.outcome import Outcome
from honed.domain.records import Record
from honed.domain.run import Applied, LearningState, Run
from honed.domain.trained_model import GateResult, Selection, TrainedModel
from honed.triggers.context import TriggerContext

# ---------------------------------------------------------------- intake

Disposition = Literal["stored", "duplicate", "conflict"]
"""What became of an event: stored now, stored before, or refused (its id is known with other content)."""


class GroupMark(NamedTuple):
    """The group of one learn model that an event belongs to."""

    learn_model: str
    key: str
    closes: bool
    """Whether the event ends the group."""


class IncomingEvent(NamedTuple):
    """One validated event on its way into the store; the columns of the hot table."""

    event_id: str | None
    digest: bytes
    """16 bytes, keyed, over the line as the client sent it."""
    type: str
    task_id: str | None
    group_id: str | None
    session_id: str | None
    receipt_id: str | None
    worker_id: int | None
    received_ms: int
    body: bytes
    """The line as it is kept, JSON."""
    groups: tuple[GroupMark, ...]


class Rejected(NamedTuple):
    """A line that was not stored, and why."""

    position: int
    """Which line of the batch that was handed in, from 0."""
    code: Literal["invalid", "conflict"]
    message: str
    path: str


class Ingested(NamedTuple):
    """What became of a batch of lines; told after the commit."""

    stored: int
    duplicates: int
    rejected: tuple[Rejected, ...]


class DataSink(Protocol):
    """The one intake that all sources share."""

    async def ingest(self, lines: Sequence[bytes]) -> Ingested:
        """Validate and store events, one JSON object a line; returns after the commit.

        Waits while the store's queue is full. A malformed line is rejected alone; the others are stored.

        Raises:
            StoreError: nothing of the batch was acknowledged; send it again.
        """


class EventSource(Protocol):
    """Something that events come from."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """Accept events while the context is open; closing drains what was accepted."""


# ---------------------------------------------------------------- store


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

    async def append(self, events: Sequence[IncomingEvent]) -> list[Disposition]:
        """Commit events with those of other callers and say what became of each; waits while the queue is full."""

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

    async def add_episode(self, episode: Episode, lines: Sequence[IncomingEvent]) -> bool:
        """Store a ready-made episode with its events; False when its task is known (then nothing changes)."""

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
        self, scenario: str, learn_model: str, *, now_ms: int, window: int
    ) -> TriggerContext:
        """The facts for the trigger, from counters; raises TriggerError when they cannot be read."""

    async def add_run(self, run: Run) -> None:
        """Write down a run that starts."""

    async def end_run(
        self, run: Run, *, trained_count: int | None = None, backoff_s: float | None = None
    ) -> None:
        """Write down how a run ended.

        Args:
            run: with its final state.
            trained_count: episodes that existed when its data were read; moves `last_train_*` on when given.
            backoff_s: seconds to wait before the next try; 0 clears a back-off, None leaves it.
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


# ---------------------------------------------------------------- learning


class HeldOut(Struct, frozen=True, kw_only=True):
    """One held-out episode, as the gate needs it; line n of the held-out file."""

    episode_id: str
    group: str
    is_success: bool


class TrainingSet(Struct, frozen=True, kw_only=True):
    """The files of one run and what is in them."""

    data_path: Path
    held_out_path: Path
    episode_ids: tuple[str, ...]
    held_out: tuple[HeldOut, ...]
    data_digest: str
    num_rows: int
    episode_count: int
    """Episodes that existed when the data were read."""
    left_out: dict[str, int]
    """Reason to number of episodes that were not used."""


class TrainingSets(Protocol):
    """Which episodes a run learns from."""

    async def build(self, folder: Path, *, selection: Selection = "successes") -> TrainingSet:
        """Write the training and the held-out file into `folder`.

        Raises:
            EmptyDataError: nothing can teach; the message counts the reasons.
        """


class TrainRequest(Struct, frozen=True, kw_only=True):
    """What the loop asks of the processor."""

    run_id: str
    model_id: str
    scenario: str
    learn_model: str
    base_model: str
    settings: TrainSettings
    training_set: TrainingSet
    incumbent: TrainedModel | None
    """Scored against; None is the bare base."""
    parent_id: str | None
    selection: Selection = "successes"


class Trained(NamedTuple):
    """What a run gives: the published model and the scores of the held-out episodes, in their order."""

    model: TrainedModel
    scores: tuple[EpisodeScore, ...]


OnProgress = Callable[[Progress], None]


class Processor(Protocol):
    """Turns a training set into a published adapter, in a process of its own."""

    async def train(self, request: TrainRequest, *, on_progress: OnProgress) -> Trained:
        """Train, export, score and publish; cancelling the task ends the worker's process group.

        Raises:
            TrainingError: the run failed; nothing was published.
        """


class Gate(Protocol):
    """Decides whether a candidate is better than the incumbent."""

    def judge(
        self,
        held_out: Sequence[HeldOut],
        scores: Sequence[EpisodeScore],
        *,
        incumbent_id: str | None,
        now_ms: int,
    ) -> GateResult:
        """The verdict on paired scores of the same held-out episodes."""


class Applier(Protocol):
    """Puts a model into service and can take it out."""

    async def apply(self, model: TrainedModel | None, *, previous: TrainedModel | None) -> None:
        """Serve the model (None: the bare base) instead of `previous`.

        True afterwards: requests are answered by it, proved by a probe. Serving what is served already is nothing.

        Raises:
            ApplyError: `previous` still serves.
        """

    async def current(self) -> str | None:
        """Id of the adapter in service; None for the bare base.

        Raises:
            ApplyError: the server does not answer.
        """
