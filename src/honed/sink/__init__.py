"""The one intake that all sources share: events in, episodes out."""

from honed.sink.feedback import Taken
from honed.sink.sink import Sink, SinkCounts

__all__ = ["Sink", "SinkCounts", "Taken"]
