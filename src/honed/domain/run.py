"""What is written down about trainings: runs, what a scenario remembers between them, what was in service."""

from typing import Literal

from msgspec import Struct

from honed.domain.trained_model import Method, Selection

RunState = Literal["running", "done", "skipped", "failed", "cancelled", "interrupted"]
"""Cancelled: stopped by the operator. Interrupted: the daemon ended in the middle of it."""


class Run(Struct, frozen=True, kw_only=True):
    """One training, from the moment its trigger fired."""

    id: str
    scenario: str
    learn_model: str
    state: RunState
    started_at_ms: int
    reason: str
    """What started it: the rule that fired, or `train-now`."""
    selection: Selection = "successes"
    ended_at_ms: int | None = None
    model_id: str | None = None
    message: str | None = None
    """Why it was skipped or failed."""
    method: Method | None = None
    """By which it learned; None when it did not, or is older than this field."""
    method_reason: str | None = None
    """Why that one."""
    num_episodes: int | None = None
    """That it learned from."""
    num_new: int | None = None
    """Episodes among those it looked at that no training had seen."""
    num_changed: int | None = None
    """Those whose outcome had changed since a training saw them."""
    num_near_duplicates: int | None = None
    """Rows that say nearly what another row says, in the data or left out of them; None when nobody looked."""
    left_out: dict[str, int] = {}
    """Episodes that it looked at and did not learn from, by reason."""
    review_id: str | None = None
    """The review that it waited for; None when nobody had to look."""
    approved_by: str | None = None
    """Who let it run."""
    forks: dict[str, int] = {}
    """Conversations that it left out beside the one of their attempt that it learned from, by why they began."""


class LearningState(Struct, frozen=True, kw_only=True):
    """What a scenario's learn model remembers between trainings and restarts."""

    first_started_at_ms: int
    episode_count: int = 0
    known_count: int = 0
    """Episodes with an outcome."""
    success_count: int = 0
    changed_count: int = 0
    """Episodes whose outcome is another than the one that the last training saw."""
    last_train_at_ms: int | None = None
    last_train_count: int = 0
    last_run_at_ms: int | None = None
    """When the last run that trained ended, whatever came of it."""
    failures: int = 0
    """Runs that failed since the last one that was done."""
    backoff_until_ms: int | None = None
    backoff_s: float = 0.0


class Applied(Struct, frozen=True, kw_only=True):
    """One entry of the history of what was in service."""

    model_id: str
    applied_at_ms: int
