"""When to train: frozen values with `&`, `|` and `~`, as text and as table.

`context` holds the facts, `trigger` says what every trigger is and how rules join. The leaves are `conditions`,
`calendar` (the clock on a wall), `past_runs` (what trained before) and `drift` (has the success rate fallen). `text`
reads and writes them, `duration` reads spans of time. Nothing here has a clock, does I/O or remembers anything.
"""

from honed.triggers.calendar import Cron, Window
from honed.triggers.conditions import Always, Count, Every, Manual, Quality, Quiet
from honed.triggers.context import Needs, RunTime, TriggerContext, TriggerMetrics
from honed.triggers.drift import Drift
from honed.triggers.past_runs import Budget, Cooldown, Failures
from honed.triggers.text import default_watch, from_table, parse, to_table
from honed.triggers.trigger import Never, TrainTrigger, Verdict, all_of, any_of

__all__ = [
    "Always",
    "Budget",
    "Cooldown",
    "Count",
    "Cron",
    "Drift",
    "Every",
    "Failures",
    "Manual",
    "Needs",
    "Never",
    "Quality",
    "Quiet",
    "RunTime",
    "TrainTrigger",
    "TriggerContext",
    "TriggerMetrics",
    "Verdict",
    "Window",
    "all_of",
    "any_of",
    "default_watch",
    "from_table",
    "parse",
    "to_table",
]
