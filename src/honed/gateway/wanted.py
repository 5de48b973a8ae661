"""Which of a lane's servers a request may have."""

from typing import NamedTuple


class Wanted(NamedTuple):
    """What a request says about the version that should answer it."""

    task_id: str | None = None
    """All requests of a task should be answered by one version."""


ANY = Wanted()
"""Whatever is in service."""
