"""Spans of time as text."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.triggers.duration import format_duration, parse_duration


@given(st.timedeltas(timedelta(), timedelta(days=100_000)))
def test_round_trip(span: timedelta) -> None:
    """A span of time survives its text."""
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("1h30m", 5400),
        ("1d", 86400),
        ("1.5h", 5400),
        (90, 90),
        ("90", 90),
        (0, 0),
    ],
)
def test_forms(value: object, seconds: int) -> None:
    """Units, sums of them, fractions, and seconds as a number."""
    assert parse_duration(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1w",
        "h",
        "-1s",
        "1 h",
        "1h ",
        "٣s",
        -1,
        True,
        None,
        float("nan"),
        float("inf"),
        "9" * 30 + "d",
    ],
)
def test_what_is_no_duration(value: object) -> None:
    """Everything else is refused."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_shortest_text() -> None:
    """Zero parts are left out."""
    spans = [timedelta(), timedelta(hours=25), timedelta(seconds=90), timedelta(milliseconds=1)]
    assert [format_duration(span) for span in spans] == ["0s", "1d1h", "1m30s", "0.001s"]
