"""Windows and schedules on ordinary nights, and on those when clocks are set, in five time zones.

Clocks are set, in 2026: Berlin at 01:00 UTC on 29 March and 25 October; New York at 07:00 UTC on 8 March and at 06:00
UTC on 1 November; Santiago at midnight, 03:00 UTC on 5 April and 04:00 UTC on 6 September; Lord Howe by half an hour,
15:00 UTC on 4 April and 15:30 UTC on 3 October; Kathmandu, at +05:45, never.
"""

from datetime import UTC, datetime, time, timedelta

import pytest

from honed.triggers import Cron, TrainTrigger, TriggerContext, Window, parse

MINUTE = timedelta(minutes=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def at(now: datetime, *, trained: datetime | None = None) -> TriggerContext:
    return TriggerContext(now=now, first_started_at=now, last_train_at=trained)


@pytest.mark.parametrize(
    ("zone", "hours", "noon", "inside"),
    [
        # 4 hours and 6 hours: the wall shows what it shows
        ("Europe/Berlin", "01:00-06:00", "2026-03-28", [("29 00:00", "29 04:00")]),
        ("Europe/Berlin", "01:00-06:00", "2026-10-24", [("24 23:00", "25 05:00")]),
        ("Europe/Berlin", "02:15-02:45", "2026-03-28", []),
        ("Europe/Berlin", "02:15-02:45", "2026-10-24", [("25 00:15", "25 00:45"), ("25 01:15", "25 01:45")]),
        ("Europe/Berlin", "02:30-05:00", "2026-03-28", [("29 01:00", "29 03:00")]),
        ("America/New_York", "22:00-02:30", "2026-03-07", [("08 03:00", "08 07:00")]),
        ("America/New_York", "22:00-01:30", "2026-10-31", [("01 02:00", "01 05:30"), ("01 06:00", "01 06:30")]),
        ("America/Santiago", "00:00-01:00", "2026-09-05", []),
        ("America/Santiago", "23:30-00:30", "2026-09-05", [("06 03:30", "06 04:00")]),
        ("America/Santiago", "23:30-24:00", "2026-04-04", [("05 02:30", "05 03:00"), ("05 03:30", "05 04:00")]),
        ("Australia/Lord_Howe", "01:45-03:00", "2026-04-04", [("04 14:45", "04 15:00"), ("04 15:15", "04 16:30")]),
        ("Australia/Lord_Howe", "02:15-03:00", "2026-10-03", [("03 15:30", "03 16:00")]),
        ("Asia/Kathmandu", "00:00-06:00", "2028-02-28", [("28 18:15", "29 00:15")]),
        ("UTC", "20:00-04:00", "2028-02-29", [("29 20:00", "01 04:00")]),
    ],
)  # fmt: skip
def test_a_window_is_what_the_clock_on_the_wall_shows(
    zone: str, hours: str, noon: str, inside: list[tuple[str, str]]
) -> None:
    """Minute by minute through the day that begins at noon UTC; and every change is foretold."""
    rule = parse(f'window("{hours}", tz="{zone}")')
    start = utc(f"{noon}T12:00")
    days = {f"{day:%d}": f"{day:%Y-%m-%d}" for day in (start, start + timedelta(days=1))}
    spans = [tuple(utc(f"{days[end[:2]]}T{end[3:]}") for end in span) for span in inside]
    found: list[datetime] = []
    foretold, was_in = rule.next_change(at(start - MINUTE)), False
    for minute in range(24 * 60):
        now = start + minute * MINUTE
        is_in = rule.should_train(at(now))
        assert is_in == any(since <= now < until for since, until in spans), now
        if is_in != was_in:
            found.append(now)
            assert foretold == now
        if foretold is None or now >= foretold:
            foretold = rule.next_change(at(now))
            assert foretold is None or foretold > now
        was_in = is_in
    assert found == [end for span in spans for end in span]


@pytest.mark.parametrize(
    ("zone", "schedule", "since", "until", "due"),
    [
        # 02:30 is left out: due when the clocks have been set
        ("Europe/Berlin", "30 2 * * *", "2026-03-27T12", "2026-03-30T12",
         ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]),
        # 02:30 comes twice: due the first time
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12", "2026-10-26T12",
         ["2026-10-25T00:30", "2026-10-26T01:30"]),
        # what runs all the time goes on at its pace
        ("Europe/Berlin", "*/30 * * * *", "2026-10-25T00", "2026-10-25T02",
         ["2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"]),
        ("America/New_York", "0 3 * * *", "2028-02-28T00", "2028-03-01T12",
         ["2028-02-28T08:00", "2028-02-29T08:00", "2028-03-01T08:00"]),
        ("America/New_York", "0 2 * * sun", "2026-03-07T00", "2026-03-16T00",
         ["2026-03-08T07:00", "2026-03-15T06:00"]),
        ("America/Santiago", "0 0 * * *", "2026-09-05T12", "2026-09-07T12",
         ["2026-09-06T04:00", "2026-09-07T03:00"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-02T18", "2026-10-05T00",
         ["2026-10-03T15:30", "2026-10-04T15:15"]),
        ("Asia/Kathmandu", "0 0 29 2 *", "2028-02-27T00", "2028-03-02T00", ["2028-02-28T18:15"]),
        ("UTC", "0 12 L * *", "2028-02-01T00", "2028-03-02T00", ["2028-02-29T12:00"]),
    ],
)  # fmt: skip
def test_a_schedule_fires_at_its_instants_and_once_at_each(
    zone: str, schedule: str, since: str, until: str, due: list[str]
) -> None:
    """A daemon that looks every five minutes, and trains at once."""
    rule = parse(f'cron("{schedule}", tz="{zone}")')
    trained = now = utc(since)
    found: list[datetime] = []
    while (now := now + 5 * MINUTE) < utc(until):
        if rule.should_train(at(now, trained=trained)):
            found.append(now)
            trained = now + MINUTE  # its end
    assert found == [utc(instant) for instant in due]


def test_a_leap_day_that_is_left_out() -> None:
    """After 2096 the next is in 2104, for 2100 is no leap year."""
    rule = Cron("0 0 29 2 *", "Asia/Kathmandu")
    for trained, due in (("2027-01-01", "2028-02-28T18:15"), ("2096-03-01", "2104-02-28T18:15")):
        facts = at(utc(trained), trained=utc(trained))
        assert rule.next_change(facts) == utc(due)
        assert not rule.should_train(facts)


def test_instants_that_were_missed_are_made_up_for_once() -> None:
    """Ten nights switched off are one training; before the first one the schedule runs from the first start."""
    rule = parse('cron("0 3 * * *")')
    now = utc("2026-05-11T12:00")
    assert rule.should_train(at(now, trained=utc("2026-05-01T12:00")))
    assert not rule.should_train(at(now, trained=now))
    new = TriggerContext(now=now, first_started_at=utc("2026-05-11T04:00"))
    assert rule.judge(new).detail == "next on 2026-05-12 03:00 UTC"
    assert rule.should_train(TriggerContext(now=now, first_started_at=utc("2026-05-11T02:59")))
    verdict = Cron("0 3 * * *", "Europe/Berlin").judge(at(now, trained=utc("2026-05-10T12:00")))
    assert verdict.detail == "due since 2026-05-11 03:00 CEST"


def test_a_training_in_the_hour_that_comes_twice() -> None:
    """It ended at ten past two for the second time: half past two was due before it, and is not due again."""
    rule = Cron("30 2 * * *", "Europe/Berlin")
    trained = utc("2026-10-25T01:10")
    assert not rule.should_train(at(utc("2026-10-25T01:40"), trained=trained))
    assert rule.next_change(at(trained, trained=trained)) == utc("2026-10-26T01:30")


def test_a_clock_that_steps() -> None:
    """Set back over an instant, the schedule does not fire twice; set forward over one, it fires."""
    rule: TrainTrigger = parse('cron("0 3 * * *")')
    trained = utc("2026-05-11T03:10")
    assert not rule.should_train(at(utc("2026-05-11T02:10"), trained=trained))
    assert not rule.should_train(at(utc("2026-05-11T03:05"), trained=trained))
    assert rule.should_train(at(utc("2026-05-12T04:00"), trained=trained))
    window = Window(time(1), time(6))
    steps = [utc("2026-05-11T00:59"), utc("2026-05-11T05:59"), utc("2026-05-11T06:00")]
    assert [window.should_train(at(now)) for now in steps] == [False, True, False]
    assert window.judge(at(steps[1])).detail == "it is 05:59 in UTC"


def test_values_that_are_no_window() -> None:
    """In code as in text: minutes of a wall clock, and an end other than the start."""
    with pytest.raises(ValueError, match="is empty"):
        Window(time(1), time(1))
    with pytest.raises(ValueError, match="a minute"):
        Window(time(1, 0, 30), time(2))
