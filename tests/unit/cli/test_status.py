"""What `honed status` says of the llama-server that answers."""

from typing import Any

from honed.cli.status import _server, captured_lines

VITALS: dict[str, Any] = {
    "pid": 7,
    "address": "http://127.0.0.1:1",
    "is_healthy": True,
    "slots": 4,
    "busy_slots": 2,
    "ctx_size": 4096,
    "deferred": 3,
    "generated_tokens": 120,
    "private_bytes": 42 << 20,
}


def test_server_is_told_in_one_line() -> None:
    """Slots, who waits for one, tokens, memory."""
    assert _server(VITALS) == (
        "pid 7, 2 of 4 slots busy, 4096 tokens each, 3 requests wait for one, "
        "120 tokens generated, 42 MiB beside the weights"
    )


def test_what_a_server_does_not_tell_is_left_out() -> None:
    """One of the operator's own has no process of ours; one that hangs says nothing."""
    unknown = dict.fromkeys(VITALS) | {"address": "http://127.0.0.1:1", "is_healthy": False}
    assert _server(unknown) == "your own at http://127.0.0.1:1, does not answer its health check"


CAPTURED = {
    "queued": 0,
    "spooled": 0,
    "sent": 9,
    "dropped": 0,
    "refused": 0,
    "skipped": 1,
    "damaged": 0,
}


def told(**counts: int) -> list[str]:
    return captured_lines({"scenarios": {"tiny": {"captured": CAPTURED | counts}}}, "tiny")


def test_calls_that_wait_for_the_daemon_are_told() -> None:
    """How many, how much, since when; a gateway from before knows only how many."""
    whole = told(spooled=1_200, spooled_bytes=3_140_000, spooled_since_ms=1_000)
    assert whole == [
        "on disk until the daemon has them: 1200, 3.1 MB, since 1970-01-01 00:00:01 UTC"
    ]
    assert told(spooled=2) == ["on disk until the daemon has them: 2"]
    assert told() == []
    assert captured_lines(None, "tiny") == captured_lines({"scenarios": {}}, "tiny") == []


def test_calls_that_are_lost_are_told() -> None:
    """And where the log says why."""
    lines = told(spool_failing=1, dropped=3, refused=2, damaged=1)
    assert [line.split()[:2] for line in lines] == [
        ["captured", "calls"],
        ["3", "captured"],
        ["2", "captured"],
        ["1", "pieces"],
    ]
    assert "serve.spool_max" in lines[0]
    assert "capture.dropped" in lines[1]
