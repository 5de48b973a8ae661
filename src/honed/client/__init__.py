"""What a swarm imports to send its events; standard library only, nothing of the daemon's.

    with HonedClient("/run/honed/feed.sock", agent="planner") as honed:
        honed.action("read_logs", task_id="t1", tick=1, success=True, output="3 timeouts")
        honed.outcome(task_id="t1", success=True)

A call returns when the event is on disk. A lost connection is made again once, and what was not
acknowledged is sent again, which the events' ids make safe. What cannot be sent is told by an error
and not kept.
"""

from honed.client.asynchronous import AsyncHonedClient
from honed.client.exchange import Sent
from honed.client.faults import (
    ConnectionLostError,
    FeedError,
    RefusedError,
    RejectedError,
    RejectedEvent,
)
from honed.client.synchronous import HonedClient

__all__ = [
    "AsyncHonedClient",
    "ConnectionLostError",
    "FeedError",
    "HonedClient",
    "RefusedError",
    "RejectedError",
    "RejectedEvent",
    "Sent",
]
