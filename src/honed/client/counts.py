"""What became of the events that a process recorded."""

from typing import NamedTuple


class Counts(NamedTuple):
    """What became of the events of one process, since the client was made."""

    recorded: int
    """Events that the agents handed over."""
    sent: int
    """Acknowledged by the daemon, what a former process had spooled included."""
    rejected: int
    """Refused as malformed, conflicting or too long; `BackgroundClient.rejections` says why."""
    dropped_full: int
    """Dropped because memory was full; where there is a spool, it was full as well."""
    dropped_at_close: int
    """Dropped because the client was closed and no spool took them."""
    in_memory: int
    """Waiting in memory."""
    spooled_bytes: int
    """Waiting on disk."""
