"""Whether a run that a rule has started may go on: while its hours last and the swarm is silent, if it asks for that.

What else the rule asks for (so many episodes, a budget) was true when the run began, and the run itself may end it.
"""

from honed.triggers.calendar import Window
from honed.triggers.conditions import Quiet
from honed.triggers.context import TriggerContext
from honed.triggers.trigger import AllOf, AnyOf, Not, TrainTrigger


def may_pause(trigger: TrainTrigger) -> bool:
    """Whether the rule asks for silence or for hours anywhere."""
    match trigger:
        case AllOf(parts) | AnyOf(parts):
            return any(map(may_pause, parts))
        case Not(part):
            return may_pause(part)
        case _:
            return isinstance(trigger, Quiet | Window)


def is_allowed(trigger: TrainTrigger, context: TriggerContext, *, wanted: bool = True) -> bool:
    """Whether the rule could be `wanted` now, as far as silence and hours decide it."""
    match trigger:
        case Not(part):
            return is_allowed(part, context, wanted=not wanted)
        case AllOf(parts) | AnyOf(parts):
            each = (is_allowed(part, context, wanted=wanted) for part in parts)
            return all(each) if isinstance(trigger, AllOf) == wanted else any(each)
        case Quiet() | Window():
            return trigger.judge(context).fires == wanted
        case _:
            return True
