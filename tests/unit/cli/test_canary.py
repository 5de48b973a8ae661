"""What `honed canary` and `honed status` say of what is tried."""

from typing import Any

from honed.cli.canary import lines

NOW: dict[str, Any] = {
    "model_id": "airline@2",
    "incumbent_id": None,
    "share": 0.1,
    "is_shadow": False,
    "state": "watching",
    "reason": "",
    "problem": None,
    "started_at_ms": 0,
    "next_look": 40,
    "tasks_per_arm": 31,
    "candidate": {"tasks": 20, "known": 18, "successes": 9, "requests": 60, "failed": 1},
    "live": {"tasks": 180, "known": 180, "successes": 126, "requests": 540, "failed": 0},
}


def test_a_canary_is_told_with_its_figures() -> None:
    """Both versions, and when there is more to see."""
    assert lines(NOW) == [
        "airline@2 is tried: 10% of the tasks, beside the base model, since 1970-01-01 00:00:00 UTC",
        "airline@2: 9 of 18 tasks done, 2 without an outcome; 1 of 60 requests failed",
        "the base model: 126 of 180 tasks done; 0 of 540 requests failed",
        "looked at next at 40 tasks of each, now 31",
    ]


def test_one_that_is_held_says_what_to_do() -> None:
    """And why; a gateway that is away is told too."""
    held = {"state": "held", "reason": "more tasks done; but fewer tool calls", "problem": "away"}
    first, *_, reason, problem = lines(NOW | held)
    assert "waits for you: `honed promote airline@2` or `honed withdraw airline@2`" in first
    assert (reason, problem) == (held["reason"], "cannot be looked at: away")


def test_a_shadow_has_no_outcomes() -> None:
    """Nobody has acted on what it said."""
    told = lines(NOW | {"is_shadow": True})
    assert told[0].startswith("airline@2 is tried: copies of 10% of the tasks")
    assert told[1] == "airline@2: 1 of 60 requests failed"
    assert told[3] == "looked at next at 40 copies"
