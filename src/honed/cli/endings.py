"""In words, how a run ended, how long ago and why: one line, for every state that a run can have."""

from collections.abc import Mapping
from typing import Any, Final

_WHY_MAX: Final = 300
"""Characters of a reason; `honed runs` shows all of it."""
_UNITS: Final = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))


def ending(run: Mapping[str, Any], now_ms: int) -> str:
    """The line about a run as the control API gives it."""
    began, ended = run["started_at_ms"], run.get("ended_at_ms")
    if run["state"] == "running":
        return f"{run['id']} running for {_span(now_ms - began)}, started by {run['reason']}"
    when = f"{_span(now_ms - ended)} ago" if ended else f"begun {_span(now_ms - began)} ago"
    return f"{run['id']} {run['state']} {when}: {_why(run)}"


def _why(run: Mapping[str, Any]) -> str:
    if told := " ".join((run.get("message") or "").split()):
        return told if len(told) <= _WHY_MAX else f"{told[:_WHY_MAX]}... (`honed runs` shows all)"
    made = f"{run['model_id']}, " if run.get("model_id") else ""
    if run["state"] == "done":
        return f"{made}started by {run['reason']}"
    return f"{made}why was not written down, started by {run['reason']}"


def _span(ms: int) -> str:
    """A time as people say it; a clock that was set back counts as none."""
    seconds = max(0, ms) // 1000
    length, unit = next((each for each in _UNITS if seconds >= 2 * each[0]), _UNITS[-1])
    return f"{seconds // length} {unit}"
