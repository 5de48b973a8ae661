"""Conditions on the calendar and the clock on the wall of a time zone.

Time zones are those of the IANA database, by name; without one it is UTC. A zone is read once, when the rule is made.
"""

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from honed.triggers.context import TriggerContext
from honed.triggers.trigger import TrainTrigger, Verdict

_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])\Z")
_MIDNIGHT: Final = time()
_A_LEAP_YEAR: Final = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window(TrainTrigger):
    """Fires while the clock on the wall of `tz` is at `start` or later, and before `end`, on every day.

    A window that ends before it starts goes over midnight. It follows the wall: when clocks are set forward, the hour
    that they leave out is missing from it, and the hour that they go through twice is in it twice.
    """

    start: time
    end: time
    """Midnight is the end of the day."""
    tz: str = "UTC"

    def __post_init__(self) -> None:
        _check_zone(self.tz)
        if self.start == self.end:
            raise ValueError(f"window {self.hours} is empty: expected an end other than its start")
        if any(at.second or at.microsecond or at.tzinfo for at in (self.start, self.end)):
            raise ValueError("a window starts and ends at a minute of the wall clock of `tz`")

    def judge(self, context: TriggerContext) -> Verdict:
        """Look at the clock on the wall."""
        local = context.now.astimezone(zone(self.tz))
        at = local.time()
        since, until = at >= self.start, at < self.end or self.end == _MIDNIGHT
        goes_over = self.start > self.end != _MIDNIGHT
        is_in = since or until if goes_over else since and until
        return Verdict(is_in, self, f"it is {local:%H:%M} in {self.tz}")

    def next_change(self, context: TriggerContext) -> datetime | None:
        """The next start or end, or the next time that the clock on the wall is set."""
        tz, now = zone(self.tz), context.now
        today = now.astimezone(tz).date()
        days = (today + timedelta(days=n) for n in range(3))
        walls = (datetime.combine(day, at) for day in days for at in (self.start, self.end))
        instants = (instant for wall in walls for instant in _instants(wall, tz))
        soonest = min(instant for instant in instants if instant > now)
        return _set_between(now, soonest, tz) or soonest

    def __str__(self) -> str:
        return f'window("{self.hours}"{_zone_argument(self.tz)})'

    @property
    def hours(self) -> str:
        """Start and end, `01:00-06:00`."""
        return f"{self.start:%H:%M}-{'24:00' if self.end == _MIDNIGHT else f'{self.end:%H:%M}'}"


@dataclass(frozen=True, slots=True)
class Cron(TrainTrigger):
    """Fires when an instant of the schedule lies between the last training and now, else the first start and now.

    The five fields of cron, minute to day of the week, in the time of `tz`. An instant that was missed is made up for
    once, however many were missed. As in Debian's cron, an instant that clocks set forward leave out is due when they
    have been set, and one that clocks set back go through twice is due the first time.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise ValueError(f"{self.expression!r} is no schedule: expected a text")
        fields = self.expression.split()
        if len(fields) != 5:
            raise ValueError(
                f"schedule {self.expression!r} has {len(fields)} fields: "
                "expected 5, minute hour day month weekday"
            )
        try:
            next(CronSim(self.expression, _A_LEAP_YEAR))
        except (CronSimError, ValueError, StopIteration) as error:
            reason = str(error) or "it is never due"
            raise ValueError(f"schedule {self.expression!r} cannot be read: {reason}") from None
        _check_zone(self.tz)
        object.__setattr__(self, "expression", " ".join(fields))

    def judge(self, context: TriggerContext) -> Verdict:
        """Compare the first instant since the last training with now."""
        due = self._due(context)
        if due is None:
            return Verdict(False, self, "it is not due in the next 50 years")
        local = due.astimezone(zone(self.tz))
        fires = due <= context.now
        detail = f"{'due since' if fires else 'next on'} {local:%Y-%m-%d %H:%M %Z}"
        return Verdict(fires, self, detail)

    def next_change(self, context: TriggerContext) -> datetime | None:
        """When it is due."""
        return self._due(context)

    def _due(self, context: TriggerContext) -> datetime | None:
        since = context.last_train_at or context.first_started_at
        return next_instant(self.expression, self.tz, since)

    def __str__(self) -> str:
        return f'cron("{self.expression}"{_zone_argument(self.tz)})'


def parse_window(hours: object, tz: str = "UTC") -> Window:
    """A window from its text, `01:00-06:00`.

    Raises:
        ValueError: the text is none, or the zone is not known.
    """
    match = _HOURS.match(hours) if isinstance(hours, str) else None
    if match is None or (match[3] == "24" and match[4] != "00"):
        raise ValueError(f"{hours!r} is no window: expected for example 01:00-06:00 or 22:00-24:00")
    first, last = (int(match[1]), int(match[2])), (int(match[3]) % 24, int(match[4]))
    return Window(time(*first), time(*last), tz)


@functools.cache
def zone(name: str) -> ZoneInfo:
    """The time zone of that name; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a path, a folder
        pass
    near = difflib.get_close_matches(name, sorted(available_timezones()), n=1)
    hint = f"did you mean {near[0]}?" if near else "expected for example Europe/Berlin"
    raise ValueError(f"unknown time zone {name!r}: {hint}")


def _check_zone(name: object) -> None:
    if not isinstance(name, str):
        raise ValueError(f"time zone {name!r} is no name: expected for example Europe/Berlin")
    zone(name)


@functools.lru_cache(maxsize=512)
def next_instant(expression: str, tz: str, since: datetime) -> datetime | None:
    """The first instant of a schedule after `since`, in UTC; None when there is none in 50 years."""
    schedule = CronSim(expression, since.astimezone(zone(tz)))
    # On the night when clocks go back, cronsim starts from the wall, and may give an instant before `since`.
    instants = (instant.astimezone(UTC) for instant in schedule)
    return next((instant for instant in instants if instant > since), None)


def _instants(wall: datetime, tz: ZoneInfo) -> Iterator[datetime]:
    """When the clock on the wall shows that: once, twice, or never on the night that leaves it out."""
    for fold in (0, 1):
        instant = wall.replace(tzinfo=tz, fold=fold).astimezone(UTC)
        if instant.astimezone(tz).replace(tzinfo=None) == wall:
            yield instant


def _set_between(first: datetime, last: datetime, tz: ZoneInfo) -> datetime | None:
    """When the clock on the wall is set between two instants of UTC; None when it is not."""
    before = first.astimezone(tz).utcoffset()
    if last.astimezone(tz).utcoffset() == before:
        return None
    while last - first > timedelta(seconds=1):
        middle = first + (last - first) / 2
        if middle.astimezone(tz).utcoffset() == before:
            first = middle
        else:
            last = middle
    return last.replace(microsecond=0)


def _zone_argument(tz: str) -> str:
    return "" if tz == "UTC" else f', tz="{tz}"'
