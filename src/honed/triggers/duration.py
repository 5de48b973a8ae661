"""Spans of time as people write them: `30s`, `15m`, `1h30m`, `1d`, or seconds as a number."""

import re
from datetime import timedelta
from typing import Final

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_SUM: Final = re.compile(rf"(?:{_NUMBER}[smhd])+\Z")
_PART: Final = re.compile(rf"({_NUMBER})([smhd])")


def parse_duration(value: object) -> timedelta:
    """Read a span of time; a timedelta is given back as it is.

    Raises:
        ValueError: anything that is not a span of time of 0 or more.
    """
    try:
        if isinstance(value, timedelta):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return timedelta(seconds=value)
        if isinstance(value, str):
            if re.fullmatch(_NUMBER, value):
                return timedelta(seconds=float(value))
            if _SUM.match(value):
                parts = (
                    timedelta(seconds=float(n) * _UNITS[unit]) for n, unit in _PART.findall(value)
                )
                return sum(parts, timedelta())
    except OverflowError:
        raise ValueError(f"{value!r} is too long for a duration") from None
    raise ValueError(
        f"{value!r} is not a duration: expected for example 30s, 15m, 1h30m or seconds"
    )


def format_duration(span: timedelta) -> str:
    """The shortest text that `parse_duration` reads back to an equal span; `0s` for none."""
    seconds, text = span.days * 86400 + span.seconds, ""
    for unit, size in _UNITS.items():
        if unit == "s" and span.microseconds:
            text += f"{seconds}.{span.microseconds:06d}".rstrip("0") + "s"
        elif seconds // size:
            text += f"{seconds // size}{unit}"
        seconds %= size
    return text or "0s"


def whole_seconds(span: timedelta) -> timedelta:
    """The span without parts of a second."""
    return span - timedelta(microseconds=span.microseconds)
