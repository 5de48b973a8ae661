"""When a rule will fire if things go on as they do: time exactly, episodes at their present rate.

Instants that the calendar and spans of time decide are told exactly. New episodes are taken to come in evenly, at the
rate given. What outcomes decide (`quality`, `drift`) is taken as it stands, for no rate of episodes tells how they
will end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from honed.triggers.conditions import Count, Quality, Quiet
from honed.triggers.context import TriggerContext
from honed.triggers.drift import Drift
from honed.triggers.trigger import AllOf, AnyOf, Not, TrainTrigger

HORIZON: Final = timedelta(days=366)
"""What lies later is not told."""
_MOST_STEPS: Final = 10_000
_MOST_LOOKS: Final = 200_000
"""At conditions, in all steps together: about a second."""
_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)

Prospect = Literal["now", "later", "open", "not", "unforeseen"]
"""`open`: outcomes decide it. `not`: not within a year, if episodes keep coming in as they do.

`unforeseen`: not until `Forecast.until`; the rule has too many parts that change too often to look further.
"""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a rule fires, if that can be told."""

    prospect: Prospect
    at: datetime | None = None
    """When: `now` and `later` have it."""
    as_they_stand: tuple[TrainTrigger, ...] = ()
    """The conditions that were taken as they stand, in the rule's order."""
    until: datetime | None = None
    """Up to when it was looked: `unforeseen` has it."""


def forecast(
    trigger: TrainTrigger,
    facts: TriggerContext,
    *,
    per_hour: float,
    not_before: datetime | None = None,
) -> Forecast:
    """When the rule fires and there is something new to learn from.

    Args:
        trigger: the rule.
        facts: as it is now.
        per_hour: episodes that come in each hour.
        not_before: when a back-off ends.
    """
    rule = trigger & Count(1)  # nothing trains when nothing is new
    conditions = tuple(leaves(trigger))
    stand = tuple(dict.fromkeys(c for c in conditions if isinstance(c, (Quality, Drift))))
    now = at = facts.now
    coming: dict[int, datetime | None] = {}
    for _ in range(min(_MOST_STEPS, max(1, _MOST_LOOKS // len(conditions)))):
        then = _later(facts, at, per_hour, conditions)
        if at >= (not_before or at) and rule.should_train(then):
            return Forecast("now" if at == now else "later", at, stand)
        _look_ahead(coming, conditions, then)
        changes = [*coming.values(), *_crossings(rule, facts, per_hour), not_before]
        later = [change for change in changes if change is not None and change > at]
        if not later or min(later) > now + HORIZON:
            return Forecast("open" if stand else "not", None, stand)
        at = min(later)
    return Forecast("unforeseen", None, stand, until=at)


def leaves(trigger: TrainTrigger) -> Iterator[TrainTrigger]:
    """The conditions of a rule, in its order."""
    match trigger:
        case AnyOf(parts) | AllOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case _:
            yield trigger


def _look_ahead(
    coming: dict[int, datetime | None],
    conditions: tuple[TrainTrigger, ...],
    facts: TriggerContext,
) -> None:
    """When time alone changes each condition; events that keep coming in put no end to a silence.

    What lies ahead stays where it is until it has come: nothing but a silence depends on what comes in meanwhile.
    """
    comes_in = facts.last_event_at == facts.now
    for place, condition in enumerate(conditions):
        if isinstance(condition, Quiet):
            coming[place] = None if comes_in else condition.next_change(facts)
            continue
        known = coming.get(place)
        if place not in coming or (known is not None and known <= facts.now):
            coming[place] = condition.next_change(facts)


def _crossings(rule: TrainTrigger, facts: TriggerContext, per_hour: float) -> Iterator[datetime]:
    """When the count of each condition is reached."""
    for condition in leaves(rule):
        if isinstance(condition, Count) and per_hour > 0:
            missing = max(0, condition.count - facts.count)
            if missing / per_hour < HORIZON / _HOUR:
                yield facts.now + missing / per_hour * _HOUR + _TICK


def _later(
    facts: TriggerContext, at: datetime, per_hour: float, conditions: tuple[TrainTrigger, ...]
) -> TriggerContext:
    """The facts at a later instant, if episodes keep coming in."""
    if at == facts.now:
        return facts
    came = int((at - facts.now) / _HOUR * per_hour)
    silences = [c.span for c in conditions if isinstance(c, Quiet)]
    is_flow = per_hour > 0 and any(_HOUR / per_hour < span for span in silences)
    return replace(
        facts,
        now=at,
        episode_count=facts.episode_count + came,
        last_event_at=at if is_flow else facts.last_event_at,
    )
