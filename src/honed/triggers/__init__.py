"""When to train: frozen values with `&`, `|` and `~`, as text and as table.

`trigger` says what every trigger is, `conditions` are the leaves, `combine` joins them, `text`
reads and writes them, `duration` reads spans of time. Nothing here has a clock, does I/O or
remembers anything.
"""

from honed.triggers.combine import all_of, any_of
from honed.triggers.conditions import Always, Count, Every, Manual, Never, Quality
from honed.triggers.text import default_watch, from_table, parse, to_table
from honed.triggers.trigger import TrainTrigger, TriggerContext, TriggerMetrics, Verdict

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
