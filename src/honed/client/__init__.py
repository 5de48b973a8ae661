"""What a swarm imports to send its events; standard library only, nothing of the daemon's.

    with HonedClient("/run/honed/feed.sock", agent="planner") as honed:
        honed.action("read_logs", task_id="t1", tick=1, success=True, output="3 timeouts")
        honed.outcome(task_id="t1", success=True)

A call returns when the event is on disk. A lost connection is made again once, and what was not
acknowledged is sent again, which the events' ids make safe. What cannot be sent is told by an error
and not kept.

`BackgroundClient` has the same methods and never waits; while the daemon is away, events go to a
spool on disk:

    honed = BackgroundClient("/run/honed/feed.sock", spool="~/.local/state/honed/spool")

    @recorded
    def read_logs(host): ...

    with honed.task("t1", group_id="outage-7") as task:
        read_logs("db1")                      # recorded as an action
        task.record("restart", target="db1")
        task.done(success=True)
"""

from honed.client.asynchronous import AsyncHonedClient
from honed.client.background import BackgroundClient
from honed.client.counts import Counts
from honed.client.exchange import Sent
from honed.client.faults import (
    ConnectionLostError,
    FeedError,
    RefusedError,
    RejectedError,
    RejectedEvent,
)
from honed.client.synchronous import HonedClient
from honed.client.task import AsyncTask, Task, current_task, recorded

__all__ = [
    "AsyncHonedClient",
    "AsyncTask",
    "BackgroundClient",
    "ConnectionLostError",
    "Counts",
    "FeedError",
    "HonedClient",
    "RefusedError",
    "RejectedError",
    "RejectedEvent",
    "Sent",
    "Task",
    "current_task",
    "recorded",
]
