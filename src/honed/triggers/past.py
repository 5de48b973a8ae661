"""What a store would have known at each instant of its history, for rules that are tried on it.

Events go in as they happened, facts come out as the store would have told them. An episode costs 17 bytes, and one
whose outcome is known 8 more, however long the history is.
"""

import functools
from array import array
from bisect import bisect_left, insort
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown, is_known, score
from honed.domain.verdict import worth
from honed.triggers.context import TEN, Needs, RunTime, TriggerContext

_UNKNOWN, _SUCCESS, _FAILURE, _TIMEOUT = range(4)
_KINDS: Final = {Unknown: _UNKNOWN, Success: _SUCCESS, Failure: _FAILURE, Timeout: _TIMEOUT}


class Made(NamedTuple):
    """An episode was made."""

    at_ms: int
    number: int
    active_ms: int
    """When its last event came in."""


class Told(NamedTuple):
    """From now on an episode has another outcome."""

    at_ms: int
    number: int
    outcome: Outcome


PastEvent = Made | Told


class Past:
    """A history that grows; in order of time."""

    def __init__(self, *, started_at_ms: int) -> None:
        """`started_at_ms`: when the scenario is taken to have started; nothing is trained before."""
        self._started_at_ms = started_at_ms
        self._numbers = array("q")
        """Of the episodes in the order in which they were made, as far as they rise."""
        self._strays: dict[int, int] = {}
        """Places of those that came later than one with a higher number."""
        self._kinds = bytearray()
        self._scores = array("d")
        self._known = array("q")
        """Places of the episodes since the last training with a known outcome, rising."""
        self._num_known = self._num_successes = 0
        self._sums: list[int] | None = []
        """Successes in each whole ten of `_known`, oldest first; None when they must be counted anew."""
        self._changed: dict[int, tuple[str, float]] = {}
        """Places of trained episodes that stand otherwise than the last training saw them, and what it saw."""
        self._last_event_ms: int | None = None
        self._trained_count = 0
        self._runs: list[RunTime] = []

    @property
    def num_new(self) -> int:
        """Episodes since the last training."""
        return len(self._kinds) - self._trained_count

    @property
    def num_changed(self) -> int:
        """Trained episodes whose outcome is another now."""
        return len(self._changed)

    @property
    def left_of_ten(self) -> int:
        """Known outcomes that the newest ten still lacks."""
        return TEN - self._num_known % TEN

    def apply(self, event: PastEvent) -> bool:
        """Let it happen; False when it moves outcomes that were told before."""
        if isinstance(event, Made):
            self._make(event)
            return True
        self._last_event_ms = max(self._last_event_ms or 0, event.at_ms)
        place = self._place(event.number)
        return place is None or self._tell(place, event.outcome)

    def train(self, started_at: datetime, ended_at: datetime) -> None:
        """A training has read all that there is."""
        self._trained_count = len(self._kinds)
        self._changed.clear()
        self._known, self._sums = array("q"), None
        self._runs.append(RunTime(started_at, ended_at))

    def facts(self, now: datetime, needs: Needs) -> TriggerContext:
        """As the store would have told them."""
        last = self._runs[-1] if self._runs else None
        return TriggerContext(
            now=now,
            first_started_at=_utc(self._started_at_ms),
            last_event_at=None if self._last_event_ms is None else _utc(self._last_event_ms),
            last_train_at=last.ended_at if last else None,
            last_train_count=self._trained_count,
            episode_count=len(self._kinds),
            changed_count=len(self._changed),
            recent=self._recent(needs.outcomes),
            overall_success_rate=self._num_successes / self._num_known if self._num_known else 0.0,
            last_run_at=last.ended_at if last else None,
            runs=self._runs_since(now - needs.period) if needs.period else (),
            tens=self._tens(needs.tens),
        )

    def success_rate(self) -> float | None:
        """Of the episodes since the last training; None when no outcome is known."""
        if not self._known:
            return None
        return sum(self._kinds[place] == _SUCCESS for place in self._known) / len(self._known)

    def _make(self, event: Made) -> None:
        self._last_event_ms = max(self._last_event_ms or 0, event.active_ms)
        if self._numbers and event.number < self._numbers[-1]:
            self._strays[event.number] = len(self._kinds)
            self._numbers.append(self._numbers[-1])
        else:
            self._numbers.append(event.number)
        self._kinds.append(_UNKNOWN)
        self._scores.append(0.0)

    def _place(self, number: int) -> int | None:
        """None for an episode that was made before the history begins."""
        if number in self._strays:
            return self._strays[number]
        place = bisect_left(self._numbers, number)
        is_there = place < len(self._numbers) and self._numbers[place] == number
        return place if is_there else None

    def _tell(self, place: int, outcome: Outcome) -> bool:
        before, was_known = self._outcome(place), self._kinds[place] != _UNKNOWN
        is_known_now = is_known(outcome)
        self._num_known += is_known_now - was_known
        self._num_successes += isinstance(outcome, Success) - isinstance(before, Success)
        self._kinds[place], self._scores[place] = _KINDS[type(outcome)], score(outcome)
        if place < self._trained_count:
            saw = self._changed.pop(place, worth(before))
            if worth(outcome) != saw:
                self._changed[place] = saw
            if was_known != is_known_now:
                self._sums = None  # the tens are counted from the first known outcome ever
            return was_known == is_known_now
        if was_known and not is_known_now:
            del self._known[bisect_left(self._known, place)]
        elif is_known_now and not was_known:
            if not self._known or place > self._known[-1]:
                self._append(place)
                return True
            insort(self._known, place)
        elif before == outcome:
            return True
        self._sums = None
        return False

    def _append(self, place: int) -> None:
        self._known.append(place)
        if self._sums is not None and self._num_known % TEN == 0 and len(self._known) >= TEN:
            self._sums.append(sum(self._kinds[at] == _SUCCESS for at in self._known[-TEN:]))

    def _outcome(self, place: int) -> Outcome:
        return _outcome_of(self._kinds[place], self._scores[place])

    def _recent(self, window: int) -> tuple[Outcome, ...]:
        if not window:
            return ()
        places = list(reversed(self._known[-window:]))
        if len(places) < window:
            known = (place for place in self._changed if self._kinds[place] != _UNKNOWN)
            places += sorted(known, reverse=True)[: window - len(places)]
        return tuple(map(self._outcome, places))

    def _tens(self, limit: int) -> tuple[int, ...]:
        if not limit:
            return ()
        if self._sums is None:
            end = len(self._known) - self._num_known % TEN
            oldest = max(end % TEN, end - TEN * limit) if end > 0 else 0
            kinds, known = self._kinds, self._known
            self._sums = [
                sum(kinds[place] == _SUCCESS for place in known[at : at + TEN])
                for at in range(oldest, end, TEN)
            ]
        return tuple(reversed(self._sums[-limit:]))

    def _runs_since(self, since: datetime) -> tuple[RunTime, ...]:
        found = []
        for run in reversed(self._runs):
            found.append(run)
            if run.started_at <= since:
                break
        return tuple(found)


def _utc(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


@functools.lru_cache(maxsize=256)
def _outcome_of(kind: int, worth: float) -> Outcome:
    """Without its reason, which nothing judges by."""
    match kind:
        case 1:
            return Success(worth)
        case 2:
            return Failure()
        case 3:
            return Timeout(worth)
    return Unknown()
