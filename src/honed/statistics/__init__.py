"""What can be counted of a swarm's work, without a model. Values and pure functions, no I/O.

`online` counts actions as they happen; `canary` rules on a version that is tried beside the one in service, by the
tests of `sequential`.
"""

from honed.statistics.online import OnlineStats, Tally

__all__ = ["OnlineStats", "Tally"]
