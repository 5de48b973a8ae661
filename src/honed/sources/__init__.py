"""Where events come from; all sources share one sink."""

from honed.sources.chosen import chosen_sources
from honed.sources.files import FileSource
from honed.sources.http import HttpSource
from honed.sources.socket import SocketSource

__all__ = ["FileSource", "HttpSource", "SocketSource", "chosen_sources"]
