"""Time as honed writes it: Unix milliseconds in UTC between programs, ISO 8601 with `Z` for people."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """The time now, Unix milliseconds UTC."""
    return time.time_ns() // 1_000_000


def iso_utc(at: datetime | None = None) -> str:
    """An aware time (default: now) as ISO 8601 in UTC, for example `2026-03-02T09:10:00.250Z`."""
    moment = (at or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
