"""What every trigger is: a frozen value that judges facts and explains its verdict.

A trigger has no clock, no I/O and no memory. What must be remembered is in the TriggerContext,
which the loop makes from the store's counters.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from honed.domain.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMetrics:
    """Success rates over the episodes with a known outcome."""

    recent_success_rate: float
    overall_success_rate: float
    recent_sample_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerContext:
    """The facts at one instant that triggers judge."""

    now: datetime
    first_started_at: datetime
    """When the scenario first ran; survives restarts."""
    last_train_at: datetime | None = None
    last_train_count: int = 0
    """Episodes that existed when the data of the last training were read."""
    episode_count: int = 0
    """Episodes ever made; never falls."""
    recent: tuple[Outcome, ...] = ()
    """Known outcomes since the last training, newest first."""
    overall_success_rate: float = 0.0
    """Over all episodes with a known outcome."""

    @property
    def count(self) -> int:
        """Episodes that wait to be learned from, never below 0."""
        return max(0, self.episode_count - self.last_train_count)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trigger fires, and why: the verdicts of its parts."""

    fires: bool
    trigger: "TrainTrigger"
    detail: str = ""
    """The figures behind it, for example `37 of 100 episodes`."""
    parts: tuple["Verdict", ...] = ()

    def lines(self, depth: int = 0) -> Iterator[str]:
        """The verdict and its parts, one line each, indented."""
        text = f"{'  ' * depth}{'yes' if self.fires else 'no '} {self.trigger}"
        yield f"{text}  ({self.detail})" if self.detail else text
        for part in self.parts:
            yield from part.lines(depth + 1)

    def __str__(self) -> str:
        return "\n".join(self.lines())


class TrainTrigger(ABC):
    """A rule that says train now, and why. Values: frozen, comparable, printable."""

    __slots__ = ()

    @abstractmethod
    def judge(self, context: TriggerContext) -> Verdict:
        """The verdict on these facts; all parts are judged, so that it is complete."""

    @abstractmethod
    def __str__(self) -> str:
        """The rule as text; `parse` reads it back to an equal value."""

    @property
    def name(self) -> str:
        """The name of the condition, as the text form writes it."""
        return str(self).partition("(")[0]

    @property
    def window(self) -> int:
        """How many recent outcomes the rule wants to see."""
        return 0

    def should_train(self, context: TriggerContext) -> bool:
        """Whether the rule fires on these facts."""
        return self.judge(context).fires

    def describe(self) -> str:
        """The rule as text."""
        return str(self)

    def explain(self, context: TriggerContext) -> str:
        """The verdict as an indented tree, a yes or no on each line."""
        return str(self.judge(context))

    # `combine` knows this class, so its names can only be looked up when an operator is used
    def __and__(self, other: "TrainTrigger") -> "TrainTrigger":
        from honed.triggers.combine import all_of

        return all_of((self, other)) if isinstance(other, TrainTrigger) else NotImplemented

    def __or__(self, other: "TrainTrigger") -> "TrainTrigger":
        from honed.triggers.combine import any_of

        return any_of((self, other)) if isinstance(other, TrainTrigger) else NotImplemented

    def __invert__(self) -> "TrainTrigger":
        from honed.triggers.combine import Not

        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a trigger has no truth of its own: write `a & b`, `a | b`, `~a`, or judge it"
        )
