"""Rules made of rules: `a & b`, `a | b`, `~a`, `all_of([...])`, `any_of([...])`.

All parts are judged, no short circuit: judging is free, and the verdict must be complete.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from honed.triggers.conditions import Never
from honed.triggers.trigger import TrainTrigger, TriggerContext, Verdict


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
    def window(self) -> int:
        """As many recent outcomes as the part that wants the most."""
        return max(part.window for part in self.parts)

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
    def window(self) -> int:
        """As many recent outcomes as the part that wants the most."""
        return max(part.window for part in self.parts)

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
    def window(self) -> int:
        """As many recent outcomes as the part wants."""
        return self.part.window

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


def _one(parts: tuple[TrainTrigger, ...]) -> TrainTrigger:
    return parts[0] if parts else Never()


def _check_parts(whole: TrainTrigger, parts: tuple[TrainTrigger, ...]) -> None:
    if len(parts) < 2 or any(type(part) is type(whole) for part in parts):
        raise ValueError(f"{len(parts)} parts are not a flat rule: use any_of, all_of, `|` or `&`")
