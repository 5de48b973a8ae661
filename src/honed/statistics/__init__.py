"""What can be counted of a swarm's work, without a model. Values and pure functions, no I/O."""

from honed.statistics.online import OnlineStats, Tally

__all__ = ["OnlineStats", "Tally"]
