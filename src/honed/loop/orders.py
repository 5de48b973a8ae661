"""What a run is asked to do, why it is stopped, and how far it is."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from honed.domain.job import Progress
from honed.domain.run import Run
from honed.domain.trained_model import Selection
from honed.ports import Review


class RunOrder(Struct, frozen=True, kw_only=True):
    """Why a run starts, and what kind it is."""

    id: str
    reason: str
    selection: Selection = "successes"
    against_base: bool = False
    """Judge it against the bare base model instead of the adapter in service."""
    counts: bool = True
    """Whether the trigger may forget the episodes that it learned from; a control does not count."""
    review: Review | None = None
    """What somebody has looked at and approved: it is trained on just that. None: nobody had to look."""
    unfinished: Run | None = None
    """The run that goes on; None begins one."""


class Stop(Struct, kw_only=True):
    """Why a run is being stopped, where somebody has said it; a daemon that ends says nothing."""

    reason: Literal["cancelled", "paused"] | None = None


class TrainingNow(Struct, kw_only=True):
    """What the running training reports; shown by `honed status`."""

    run_id: str
    selection: Selection
    started_at_ms: int
    progress: Progress

    def told(self) -> dict[str, Any]:
        """As `honed status --json` has it."""
        shown: dict[str, Any] = msgspec.to_builtins(self.progress)
        names = ("run_id", "selection", "started_at_ms")
        return {name: getattr(self, name) for name in names} | shown
