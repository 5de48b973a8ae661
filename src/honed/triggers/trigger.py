"""What every trigger is, and how rules join: a frozen value that judges facts and explains its verdict.

A trigger has no clock, no I/O and no memory. What must be remembered is in the TriggerContext,
which the loop makes from the store's counters.
"""

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from honed.triggers.context import Needs, TriggerContext


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
    def needs(self) -> Needs:
        """What the rule wants to see beside the counters."""
        return Needs()

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When the verdict may change at the earliest if nothing but time passes; None when it cannot.

        An instant that is past already says the same as None: time alone changes nothing more.
        """
        return None

    def should_train(self, context: TriggerContext) -> bool:
        """Whether the rule fires on these facts."""
        return self.judge(context).fires

    def describe(self) -> str:
        """The rule as text."""
        return str(self)

    def explain(self, context: TriggerContext) -> str:
        """The verdict as an indented tree, a yes or no on each line."""
        return str(self.judge(context))

    def __and__(self, other: "TrainTrigger") -> "TrainTrigger":
        return all_of((self, other)) if isinstance(other, TrainTrigger) else NotImplemented

    def __or__(self, other: "TrainTrigger") -> "TrainTrigger":
        return any_of((self, other)) if isinstance(other, TrainTrigger) else NotImplemented

    def __invert__(self) -> "TrainTrigger":
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "a trigger has no truth of its own: write `a & b`, `a | b`, `~a`, or judge it"
        )


@dataclass(frozen=True, slots=True)
class Never(TrainTrigger):
    """Never fires: learning is off; `train-now` still works."""

    def judge(self, context: TriggerContext) -> Verdict:
        """No."""
        return Verdict(False, self, "learning is off")

    def __str__(self) -> str:
        return "never()"


@dataclass(frozen=True, slots=True)
class AnyOf(TrainTrigger):
    """Fires when any part fires; made by `any_of` or `|`, so that it is flat."""

    parts: tuple[TrainTrigger, ...]

    def __post_init__(self) -> None:
        _check_parts(self, self.parts)

    def judge(self, context: TriggerContext) -> Verdict:
        """Judge all parts; one yes is enough."""
        verdicts = tuple(part.judge(context) for part in self.parts)
        return Verdict(any(verdict.fires for verdict in verdicts), self, parts=verdicts)

    @property
    def name(self) -> str:
        """`any`, as the table form writes it."""
        return "any"

    @property
    def needs(self) -> Needs:
        """What all parts need together."""
        return functools.reduce(operator.or_, (part.needs for part in self.parts))

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When the first of the parts may change."""
        return _soonest(self.parts, context)

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class AllOf(TrainTrigger):
    """Fires when all parts fire; made by `all_of` or `&`, so that it is flat."""

    parts: tuple[TrainTrigger, ...]

    def __post_init__(self) -> None:
        _check_parts(self, self.parts)

    def judge(self, context: TriggerContext) -> Verdict:
        """Judge all parts; one no is too much."""
        verdicts = tuple(part.judge(context) for part in self.parts)
        return Verdict(all(verdict.fires for verdict in verdicts), self, parts=verdicts)

    @property
    def name(self) -> str:
        """`all`, as the table form writes it."""
        return "all"

    @property
    def needs(self) -> Needs:
        """What all parts need together."""
        return functools.reduce(operator.or_, (part.needs for part in self.parts))

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When the first of the parts may change."""
        return _soonest(self.parts, context)

    def __str__(self) -> str:
        return " & ".join(f"({p})" if isinstance(p, AnyOf) else str(p) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Not(TrainTrigger):
    """Fires when its part does not."""

    part: TrainTrigger

    def judge(self, context: TriggerContext) -> Verdict:
        """The opposite of the part's verdict."""
        verdict = self.part.judge(context)
        return Verdict(not verdict.fires, self, parts=(verdict,))

    @property
    def name(self) -> str:
        """`not`, as the table form writes it."""
        return "not"

    @property
    def needs(self) -> Needs:
        """What the part needs."""
        return self.part.needs

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When the part may change."""
        return self.part.next_change(context)

    def __str__(self) -> str:
        return f"~({self.part})" if isinstance(self.part, (AnyOf, AllOf)) else f"~{self.part}"


def any_of(triggers: Iterable[TrainTrigger]) -> TrainTrigger:
    """A rule that fires when any of them does; flat, one is itself, none is `never()`."""
    parts = tuple(p for t in triggers for p in (t.parts if isinstance(t, AnyOf) else (t,)))
    return AnyOf(parts) if len(parts) > 1 else _one(parts)


def all_of(triggers: Iterable[TrainTrigger]) -> TrainTrigger:
    """A rule that fires when all of them do; flat, one is itself, none is `never()`."""
    parts = tuple(p for t in triggers for p in (t.parts if isinstance(t, AllOf) else (t,)))
    return AllOf(parts) if len(parts) > 1 else _one(parts)


def _soonest(parts: Iterable[TrainTrigger], context: TriggerContext) -> datetime | None:
    changes = (part.next_change(context) for part in parts)
    return min((at for at in changes if at is not None and at > context.now), default=None)


def _one(parts: tuple[TrainTrigger, ...]) -> TrainTrigger:
    return parts[0] if parts else Never()


def _check_parts(whole: TrainTrigger, parts: tuple[TrainTrigger, ...]) -> None:
    if len(parts) < 2 or any(type(part) is type(whole) for part in parts):
        raise ValueError(f"{len(parts)} parts are not a flat rule: use any_of, all_of, `|` or `&`")
