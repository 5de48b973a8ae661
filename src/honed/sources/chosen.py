"""The sources that the config asks for besides the socket."""

import ipaddress
from collections.abc import Sequence

from honed.config import EventsSection, read_secret
from honed.listen import listen_on
from honed.ports import DataSink, Store
from honed.sources.bus import BusSource, EventBus
from honed.sources.files import FileSource
from honed.sources.http import HttpSource, without_token

OtherSource = HttpSource | FileSource | BusSource


def check_sources(section: EventsSection) -> None:
    """See, before anything is opened, that the sources can be; a name of a host is looked up only then.

    Raises:
        ConfigError: the address is open to other machines, and there is no token.
    """
    if section.http is None or read_secret("http-token"):
        return
    host = section.http.rpartition(":")[0].strip("[]")
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        return  # a name: known once it listens
    if not is_local:
        raise without_token(host)


def chosen_sources(
    section: EventsSection, sink: DataSink, store: Store, buses: Sequence[EventBus] = ()
) -> list[OtherSource]:
    """HTTP and files, where they are asked for, and the buses of this process; not open yet.

    Raises:
        ConfigError: the address is taken, or open to other machines without a token.
        SourceError: it cannot be used.
    """
    sources: list[OtherSource] = [
        BusSource(
            bus,
            sink,
            queue_size=section.queue_size,
            batch_max=section.batch_max,
            line_max=section.line_max,
        )
        for bus in buses
    ]
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
