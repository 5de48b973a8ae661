"""One line says of any run what became of it, how long ago and why."""

from typing import Any

import pytest

from honed.cli.endings import ending

NOW = 1_800_000_000_000


def _run(state: str, ago_s: float | None, **fields: Any) -> dict[str, Any]:
    ended = None if ago_s is None else NOW - int(1000 * ago_s)
    base = {"id": "r1", "state": state, "reason": "count(3)", "started_at_ms": NOW - 500_000}
    return base | {"ended_at_ms": ended, "message": None, "model_id": None} | fields


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (_run("done", 30, model_id="air@2"), "r1 done 30 s ago: air@2, started by count(3)"),
        (
            _run("skipped", 7300, message="no rows\n (wait)"),
            "r1 skipped 2 h ago: no rows (wait)",
        ),
        (_run("failed", 180, message="Oops: it broke"), "r1 failed 3 min ago: Oops: it broke"),
        (
            _run("failed", 200_000),
            "r1 failed 2 days ago: why was not written down, started by count(3)",
        ),
        (
            _run("interrupted", None),
            "r1 interrupted begun 8 min ago: why was not written down, started by count(3)",
        ),
        (_run("running", None), "r1 running for 8 min, started by count(3)"),
        (_run("done", -60), "r1 done 0 s ago: started by count(3)"),
    ],
)
def test_every_state_has_its_line(run: dict[str, Any], line: str) -> None:
    """Also where nobody wrote down why, and where the clock was set back."""
    assert ending(run, NOW) == line


def test_a_long_reason_is_cut_and_says_where_the_rest_is() -> None:
    """One line stays one line."""
    line = ending(_run("failed", 1, message="x" * 5000), NOW)
    assert len(line) < 400
    assert "`honed runs` shows all" in line
