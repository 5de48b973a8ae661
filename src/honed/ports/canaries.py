"""What the store knows for canaries: which there are, and what the versions that are compared have done."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from honed.domain.canary import Canary
from honed.domain.serving import LaneStatus
from honed.domain.trained_model import TrainedModel


class Tasks(NamedTuple):
    """Tasks that one version has answered; a session, or a group, counts as one where nothing smaller is named."""

    num: int = 0
    known: int = 0
    """Those of which somebody has said how they ended."""
    successes: int = 0


class Done(NamedTuple):
    """How one task was done; in shadow, one call."""

    created_at_ms: int
    is_success: bool | None
    """None while nobody has said."""
    num_tool_calls: int | None
    answer_chars: int | None
    latency_ms: int | None
    """That the model took for all calls of it."""
    score: float | None = None
    """What it was worth, 0..1; None while nobody has said."""


class Canaries(Protocol):
    """Canaries of a store; every method is one transaction."""

    async def now(self, scenario: str) -> Canary | None:
        """The canary that has its share of the tasks; there is at most one."""

    async def write(self, canary: Canary) -> None:
        """Write down a canary that begins, or how it stands now."""

    async def list(self, scenario: str, *, limit: int = 20) -> Sequence[Canary]:
        """Canaries, newest first."""

    async def newest_record(self) -> int:
        """The id of the newest record; 0 of none."""

    async def tasks(self, canary: Canary) -> Mapping[str | None, Tasks]:
        """What has become of tasks that began after the canary did, by the version that answered them. Of several
        attempts at one the newest counts whose end is known. Those that are no version's, or somebody chose
        the version of, are not there (`domain.traits`).
        """

    async def done(self, canary: Canary, adapter_id: str | None, *, limit: int) -> Sequence[Done]:
        """How one version did the newest of these tasks, newest first."""

    async def copies(self, canary: Canary, *, limit: int) -> tuple[Sequence[Done], Sequence[Done]]:
        """The newest calls that were copied to the canary: as it answered them, and as they were answered."""


@runtime_checkable
class CanaryApplier(Protocol):
    """An Applier that can have two versions answer, each its share of the tasks."""

    async def lane(self) -> LaneStatus:
        """What answers now, and what is tried beside it; raises ApplyError."""

    async def canary(self, model: TrainedModel, *, share: float, is_shadow: bool) -> None:
        """Give a model its share of the tasks, proved by a probe; told of again, it has another share from now on.

        Raises:
            ApplyError: it has none; what is in service still answers everything.
        """

    async def promote(self, model: TrainedModel) -> None:
        """Have the model that is tried answer everything; raises ApplyError: nothing has changed."""

    async def withdraw(self, model: TrainedModel) -> None:
        """Have what is in service answer everything; nothing where this model is not tried. Raises ApplyError."""
