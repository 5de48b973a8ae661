"""When to train: frozen values with `&`, `|` and `~`, as text and as table.

`context` holds the facts, `trigger` says what every trigger is and how rules join, `conditions` are
the leaves, `text` reads and writes them, `duration` reads spans of time. Nothing here has a clock, does I/O or
remembers anything.
"""

from honed.triggers.conditions import Always, Count, Every, Manual, Quality
from honed.triggers.context import TriggerContext, TriggerMetrics
from honed.triggers.text import default_watch, from_table, parse, to_table
from honed.triggers.trigger import Never, TrainTrigger, Verdict, all_of, any_of

__all__ = [
    "Always",
    "Count",
    "Every",
    "Manual",
    "Never",
    "Quality",
    "TrainTrigger",
    "TriggerContext",
    "TriggerMetrics",
    "Verdict",
    "all_of",
    "any_of",
    "default_watch",
    "from_table",
    "parse",
    "to_table",
]
