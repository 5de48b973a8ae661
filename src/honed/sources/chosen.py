"""The sources that the config asks for besides the socket."""

from honed.config import EventsSection, read_secret
from honed.listen import listen_on
from honed.ports import DataSink, Store
from honed.sources.files import FileSource
from honed.sources.http import HttpSource


def chosen_sources(
    section: EventsSection, sink: DataSink, store: Store
) -> list[HttpSource | FileSource]:
    """HTTP and files, where they are asked for; not open yet.

    Raises:
        SourceError: the address is taken, or open to other machines without a token.
    """
    sources: list[HttpSource | FileSource] = []
    if section.http is not None:
        host, _, port = section.http.rpartition(":")
        sources.append(
            HttpSource(
                listen_on(host.strip("[]"), int(port)),
                sink,
                line_max=section.line_max,
                token=read_secret("http-token"),
                takes_traces=section.otlp,
            )
        )
    if section.inbox is not None or section.files:
        sources.append(
            FileSource(section.inbox, section.files, store, sink, line_max=section.line_max)
        )
    return sources
