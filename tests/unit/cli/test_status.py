"""What `honed status` says of the llama-server that answers."""

from typing import Any

from honed.cli.status import _server

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
