"""From stored episodes to a model in service: data, training, verdict, service."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from honed.domain.dataset import Dataset, Shape
from honed.domain.episode_score import EpisodeScore
from honed.domain.job import Progress, ScoreJob, TrainSettings
from honed.domain.trained_model import GateResult, Selection, TrainedModel
from honed.domain.verdict import Seen
from honed.ports.lessons import Material
from honed.ports.reviews import Look, Preview, Review


class HeldOut(Struct, frozen=True, kw_only=True):
    """One held-out episode, as the gate needs it; line n of the held-out file."""

    episode_id: str
    group: str
    is_success: bool
    slices: tuple[tuple[str, str], ...] = ()
    """Kind and value of what it is part of: worker, action, tool, scenario, and each tag by its own key."""


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
    forks: dict[str, int] = {}
    """Conversations that are in no row beside the one of their attempt that is, by why they began."""
    seen: Seen = Seen()
    """Which verdicts it was made by."""
    num_new: int = 0
    """Episodes that no training had seen, of those that were looked at."""
    num_changed: int = 0
    """Episodes whose outcome had changed since a training saw them."""
    num_near_duplicates: int | None = None
    """Rows that say nearly what another one says, marked or left out; None when none were looked for."""
    dataset: Dataset | None = None
    """The rules behind it and all counts, for manifests."""
    why_shape: str | None = None
    """Why its rows are not those that are tried first; None when they are."""


class TrainingSets(Protocol):
    """Which episodes a run learns from."""

    async def material(self) -> Material:
        """What there is to learn from now."""

    async def preview(
        self, scratch: Path, *, review: Review | None = None, num_rows: int = 0
    ) -> Preview:
        """What a run would learn from, or the run that waits for a person: built in `scratch` and cleared away."""

    async def build(
        self,
        folder: Path,
        *,
        selection: Selection = "successes",
        shape: Shape | None = None,
        material: Material | None = None,
        look: Look | None = None,
    ) -> TrainingSet:
        """Write the training and the held-out file into `folder`, the training rows in the shape that a method reads.

        Without a shape they have the one of all runs, and of `preview`, which a person has looked at. The episodes are
        those of `material`, chosen now where it is None. `look` is told of each of them; then nothing is going to be
        learned from what is written.

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
    start_path: str | None = None
    """Folder of the adapter that the run goes on from, where the settings ask for one; None: the base."""
    base_facts_path: Path | None = None
    """Facts of the base model that is served (`domain.base_facts`); None when they are not known."""
    checkpoints_path: Path | None = None
    """Where the run's checkpoints go, and are found by one that goes on; None: there are none."""


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

    async def score(self, job: ScoreJob, folder: Path) -> tuple[EpisodeScore, ...]:
        """Score held-out episodes without training; line n of the held-out file is `[n]`.

        Raises:
            TrainingError: the worker failed.
        """

    async def discard(self, run_id: str, *, registered: Collection[str]) -> None:
        """Clear away what a run that was cut off has left, if anything.

        Args:
            run_id: of a run that nobody does any more.
            registered: adapters that stay, also when they are this run's.
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
        earlier: Sequence[GateResult] = (),
        probe_kl: float | None = None,
    ) -> GateResult:
        """The verdict on paired scores of the same held-out episodes.

        Args:
            held_out: the episodes.
            scores: of each, in the same order.
            incumbent_id: what the candidate was measured against; None is the bare base.
            now_ms: the time, for the verdict.
            earlier: verdicts on other candidates, and on this one, that may have seen the same episodes.
            probe_kl: how far the candidate moved the model on the frozen probe set, nats per token, where measured.
        """


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
