"""Visits and successes as they happen: what a swarm can know of its actions while it runs."""

import threading
from typing import NamedTuple

from honed.domain.events import ActionEvent, Event


class Tally(NamedTuple):
    """How often something was tried, and how often it worked."""

    visits: int = 0
    successes: int = 0

    @property
    def failures(self) -> int:
        """How often it did not work."""
        return self.visits - self.successes


class OnlineStats:
    """Counts action events, of all threads; needs no learning, no daemon and no store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = Tally()
        self._actions: dict[str, Tally] = {}
        self._targets: dict[tuple[str, str], Tally] = {}

    def record(self, event: Event) -> None:
        """Count an action by its own result; other events change nothing."""
        if not isinstance(event, ActionEvent):
            return
        success = event.result.success
        with self._lock:
            self._all = _counted(self._all, success)
            before = self._actions.get(event.action, Tally())
            self._actions[event.action] = _counted(before, success)
            if event.target is not None:
                key = event.action, event.target
                self._targets[key] = _counted(self._targets.get(key, Tally()), success)

    def of(self, action: str, target: str | None = None) -> Tally:
        """The tally of an action, or of an action on one target."""
        if target is None:
            return self._actions.get(action, Tally())
        return self._targets.get((action, target), Tally())

    @property
    def total_visits(self) -> int:
        """All actions."""
        return self._all.visits

    @property
    def total_successes(self) -> int:
        """Those that worked."""
        return self._all.successes

    @property
    def total_failures(self) -> int:
        """Those that did not."""
        return self._all.failures

    @property
    def success_rate(self) -> float:
        """Share of the actions that worked, 0..1; 0 before the first."""
        visits, successes = self._all
        return successes / visits if visits else 0.0

    @property
    def failure_rate(self) -> float:
        """Share of the actions that did not work, 0..1; 0 before the first."""
        visits, successes = self._all
        return (visits - successes) / visits if visits else 0.0

    def reset(self) -> None:
        """Begin at nothing."""
        with self._lock:
            self._all = Tally()
            self._actions.clear()
            self._targets.clear()


def _counted(before: Tally, success: bool) -> Tally:
    return Tally(before.visits + 1, before.successes + success)
