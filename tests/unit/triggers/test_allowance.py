"""Which runs are paused: those whose rule asks for silence or for hours, once these are over."""

from datetime import UTC, datetime, timedelta

import pytest

from honed.triggers.allowance import is_allowed, may_pause
from honed.triggers.context import TriggerContext
from honed.triggers.text import parse

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def at(hour: float, *, silent_for: timedelta) -> TriggerContext:
    """Nothing to learn from any more, as in the middle of a run."""
    now = MIDNIGHT + timedelta(hours=hour)
    return TriggerContext(
        now=now,
        first_started_at=MIDNIGHT - timedelta(days=9),
        episode_count=0,
        last_event_at=now - silent_for,
    )


SILENT, BUSY = timedelta(hours=1), timedelta(seconds=1)


@pytest.mark.parametrize(
    ("rule", "night_silent", "night_busy", "day_silent"),
    [
        ("count(5)", True, True, True),
        ('quiet("10m")', True, False, True),
        ('count(5) & quiet("10m")', True, False, True),
        ('count(5) | quiet("10m")', True, True, True),
        ('window("01:00-06:00")', True, True, False),
        ('quiet("10m") & window("01:00-06:00")', True, False, False),
        ('quiet("10m") | window("01:00-06:00")', True, True, True),
        ('~window("09:00-18:00") & count(5)', True, True, False),
        ('~(count(5) & window("09:00-18:00"))', True, True, True),
        ('~(count(5) | window("09:00-18:00"))', True, True, False),
    ],
)
def test_silence_and_hours_alone_decide(
    rule: str, night_silent: bool, night_busy: bool, day_silent: bool
) -> None:
    """What else a rule asks for was true when its run began."""
    trigger = parse(rule)
    assert is_allowed(trigger, at(2, silent_for=SILENT)) is night_silent
    assert is_allowed(trigger, at(2, silent_for=BUSY)) is night_busy
    assert is_allowed(trigger, at(12, silent_for=SILENT)) is day_silent
    assert may_pause(trigger) is (rule != "count(5)")
