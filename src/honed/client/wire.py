"""What goes over the socket: event ids, lines, the hello."""

import json
import os
import threading
import time
from typing import Any, Final

PROTOCOL: Final = 1
LINE_MAX: Final = 1 << 20
"""Bytes of one reply at most."""


def hello() -> bytes:
    """The first line of a connection."""
    return encode({"type": "hello", "protocol": PROTOCOL, "client": "honed-python/1"})


def encode(said: dict[str, Any]) -> bytes:
    """One object as one line.

    Raises:
        ValueError: it holds NaN or infinity, or is not made of JSON's types.
    """
    try:
        text = json.dumps(said, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the event cannot be written as JSON: {error}") from error


def decode(line: bytes) -> dict[str, Any]:
    """One reply of the daemon; anything that is not an object reads as an empty one."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def complete(event: dict[str, Any], *, scenario: str | None, agent: str | None) -> dict[str, Any]:
    """The event with an id and a time, and with scenario and agent where the client has them.

    An event that brings its own id gets no time: sent again, it must be the same to the byte.

    Raises:
        TypeError: it is no dictionary.
    """
    if not isinstance(event, dict):
        found = f"expected a dictionary for each event, found {type(event).__name__}"
        is_many = isinstance(event, (list, tuple))
        raise TypeError(f"{found}: write send(*events) for many" if is_many else found)
    full = dict(event)
    if full.get("event_id") is None:
        full["event_id"] = new_event_id()
        if full.get("timestamp_ms") is None:
            full["timestamp_ms"] = time.time_ns() // 1_000_000
    if scenario is not None and full.get("scenario") is None:
        full["scenario"] = scenario
    if agent is not None and full.get("agent") is None:
        full["agent"] = agent
    return full


_lock = threading.Lock()
_last = 0


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent's may have held it


os.register_at_fork(after_in_child=_in_child)


def new_event_id() -> str:
    """A uuid7 (RFC 9562): rises with time, and strictly so inside a process.

    Rising ids let the daemon's index grow at its end. 48 bits of Unix milliseconds, 12 bits that
    count inside a millisecond, 62 random bits; a clock that steps back, or more than 4,096 ids in a
    millisecond, borrow from the next one.
    """
    global _last
    with _lock:
        _last = max(_last + 1, time.time_ns() // 1_000_000 << 12)
        ticks = _last
    tail = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    value = ticks >> 12 << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
