"""Where events come from; all sources share one sink."""

from honed.sources.bus import BusSource, EventBus, LearningBus
from honed.sources.chosen import OtherSource, check_sources, chosen_sources
from honed.sources.files import FileSource
from honed.sources.http import HttpSource
from honed.sources.socket import SocketSource

__all__ = [
    "BusSource",
    "EventBus",
    "FileSource",
    "HttpSource",
    "LearningBus",
    "OtherSource",
    "SocketSource",
    "check_sources",
    "chosen_sources",
]
