"""What people say about the data of a run before it is trained, and the run that waits for them.

A remark is added, never changed: the newest `drop` or `keep` of an episode counts, notes and labels add up.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from honed.domain.dataset import Shape
from honed.domain.episode import Episode
from honed.domain.trained_model import Selection
from honed.ports.lessons import Material

RemarkKind = Literal["drop", "keep", "note"]
"""Leave the episode out of every training set; take it again; say something about it."""

DROPPED = "dropped in review"
"""Why a dropped episode is left out."""

PREVIEW_PREFIX = ".review-"
"""How the folder of a preview begins, in the folder of the runs; one that is left there was cut off."""

Look = Callable[[Episode, str | None], None]
"""Is told of each episode that a build reads, with the reason when it is left out."""


class Remark(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody remarked on an episode."""

    episode_id: str
    kind: RemarkKind
    said_by: str
    at_ms: int
    note: str | None = None
    """Words for people."""
    label: str | None = None
    """A word to count by."""


class Review(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that waits for a person: what ordered it, and the episodes that it is to read."""

    id: str
    """That of the run to be."""
    scenario: str
    learn_model: str
    reason: str
    """The rule that fired, or `train-now`."""
    at_ms: int
    """Since when it waits."""
    material: Material
    """What there was to learn from then; later episodes are the next run's."""
    selection: Selection = "successes"
    against_base: bool = False
    counts: bool = True
    """Whether the trigger may forget what it learned from."""
    approved_by: str | None = None
    """Who let it run; None while it waits."""
    data_digest: str | None = None
    """Of the training file that was approved: no other one is trained on."""


class Correction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A better answer that somebody gave: what is learned of the episode, whatever its outcome was."""

    episode_id: str
    said_by: str | None
    """None: nobody signed it."""
    at_ms: int
    comment: str | None = None


class Tally(Struct, kw_only=True):
    """What becomes of some of the episodes."""

    taught: int = 0
    held_out: int = 0
    left_out: int = 0


class ShownRow(Struct, frozen=True, kw_only=True):
    """A row of the training file."""

    episode_id: str
    data: str
    """The very line, JSON."""
    near_duplicate_of: str | None = None
    """The episode of a row that says nearly the same."""


class Preview(Struct, frozen=True, kw_only=True):
    """What a run would learn from, were it to start now."""

    scenario: str
    learn_model: str
    shape: Shape = "sft"
    """What a row is."""
    review: Review | None
    """The run that waits for it; None when none does."""
    problem: str | None
    """Why it would train on nothing; None when it would train."""
    num_rows: int
    num_episodes: int
    """That are looked at."""
    num_new: int
    """Of those: no training has seen them."""
    num_changed: int
    """Of those: their outcome is another than a training saw."""
    num_held_out: int
    num_near_duplicates: int | None
    left_out: dict[str, int]
    """Reason to number of episodes. Where there are too few rows to train on, those of the rows are counted too."""
    by_source: dict[str, Tally]
    """By who reported the attempt: `gateway`, `client`, `otlp`, or `events` for actions."""
    by_verdict: dict[str, Tally]
    """By who said how it ended; `unsigned` is the attempt itself, or somebody who did not say who."""
    by_skill: dict[str, Tally]
    """By the tag `skill`; `-` is none."""
    by_label: dict[str, Tally]
    """By the labels that people gave."""
    data_digest: str | None
    """Of the training file; approving names it. None when there is none."""
    remarks: list[Remark]
    """On episodes among them, oldest first."""
    corrections: list[Correction] = []
    """Of episodes among them, in the order of the episodes; a daemon from before tells none."""
    rows: list[ShownRow]
    """The first rows of the training file, whose order is random."""


class Reviews(Protocol):
    """What people said about episodes, and the runs that wait; every method is one transaction."""

    async def remark(self, remarks: Sequence[Remark]) -> list[bool]:
        """Add remarks; False for those that change nothing: said already.

        Raises:
            NotFoundError: no episode has that id; nothing was added.
        """

    async def remarks(self, episode_ids: Collection[str]) -> list[Remark]:
        """All remarks on these episodes, oldest first."""

    async def dropped(self, episode_ids: Collection[str]) -> frozenset[str]:
        """Those of these episodes that are left out of every training set."""

    async def waiting(self, scenario: str, learn_model: str) -> Review | None:
        """The run that waits, approved or not."""

    async def wait(self, review: Review) -> None:
        """Have a run wait, or write down how it stands now."""

    async def end(self, review_id: str) -> None:
        """Nothing waits under this id any more."""
