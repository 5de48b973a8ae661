"""A canary: a version that gets a share of the tasks beside the one in service, until it is known how it does."""

from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

CanaryState = Literal["watching", "held", "promoted", "rolled_back", "withdrawn"]
"""Watching: nothing is decided yet. Held: a person has to decide; it keeps its share. Rolled back: it did worse.
Withdrawn: somebody ended it, or what it was compared with is not in service any more.
"""
OPEN: Final[frozenset[CanaryState]] = frozenset(("watching", "held"))
Family = Literal["worse", "better", "errors", "work"]
"""What is looked for, each at its own times."""


class Look(Struct, frozen=True, omit_defaults=True):
    """A comparison that cost some of the error that is allowed."""

    num: int
    """Tasks per arm, or requests where errors are compared."""
    p: float | None = None
    """None where there was nothing to compute."""
    level: float | None = None
    """What p had to be."""


Looks = dict[Family, tuple[Look, ...]]


class Requests(Struct, frozen=True, kw_only=True):
    """How many requests one version got, counted through restarts of the gateway, whose own counts begin anew."""

    num: int = 0
    failed: int = 0
    seen_num: int = 0
    """What the gateway had counted when it was asked last."""
    seen_failed: int = 0

    def is_behind(self, num: int, failed: int) -> bool:
        """Whether these counts do not go on from those that were seen: then they have begun anew. They may have passed
        the former ones meanwhile, but not with more failures among what is new than there is.
        """
        more, more_failed = num - self.seen_num, failed - self.seen_failed
        return more < 0 or more_failed < 0 or more_failed > more

    def told(self, num: int, failed: int, *, is_new: bool) -> "Requests":
        """The gateway has counted so many by now, or, if its counts are new, since it began."""
        total = self.num + num - (0 if is_new else self.seen_num)
        total_failed = self.failed + failed - (0 if is_new else self.seen_failed)
        failed_of_them = min(
            total, total_failed
        )  # a failed one may have come in before the first look
        return Requests(num=total, failed=failed_of_them, seen_num=num, seen_failed=failed)


class Canary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One trial of a version, from its beginning to what became of it."""

    scenario: str
    model_id: str
    incumbent_id: str | None
    """What it is compared with; None is the bare base model."""
    learn_model: str
    share: float
    """Of the tasks, 0..1."""
    started_at_ms: int
    is_shadow: bool = False
    """It answers copies that nobody sees."""
    max_tasks: int = 1_000
    """Tasks per arm after which nothing more is expected of watching."""
    after_record: int = 0
    """The newest record when it began: attempts with earlier ones are not compared."""
    state: CanaryState = "watching"
    reason: str = ""
    """Why it is in this state, with the figures."""
    looks: Looks = {}
    live_requests: Requests | None = None
    """Since it began; None before the gateway was asked."""
    candidate_requests: Requests = Requests()
    waited_s: float = 0.0
    """For how long it was tried since there was last enough to look at; while nobody watches it does not wait."""
    decided_by: str | None = None
    """Who ended it, where that was a person."""
    ended_at_ms: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has its share of the tasks."""
        return self.state in OPEN

    def ended(
        self, state: CanaryState, reason: str, *, at_ms: int, by: str | None = None
    ) -> "Canary":
        """The same, over."""
        return replace(self, state=state, reason=reason, ended_at_ms=at_ms, decided_by=by)
