"""Ids: how they look, how they are made, how they are read.

Ids that people sort or use as file names are time-ordered text; ids that the store makes are integers.
"""

import os
import re
import secrets
import threading
import time
from typing import Final

from honed.errors import ValidationError

_EPISODE = re.compile(r"\d{13}-[0-9a-f]{8}\Z")
_SCENARIO = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_ADAPTER = re.compile(r"(?P<scenario>[a-z0-9][a-z0-9_-]{0,63})@(?P<number>[1-9]\d*)\Z")


class EpisodeIds:
    """Makes episode ids `{ms:013d}-{8 hex}` that rise strictly inside one process.

    The eight hex digits are four of a per-process random number and a four-digit counter. A clock that steps back
    keeps the last millisecond; a full counter advances it.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(2)
        self._pid = os.getpid()
        self._last_ms = 0
        self._counter = 0
        self._lock = threading.Lock()

    def next(self, now_ms: int | None = None) -> str:
        """The next id; `now_ms` (Unix milliseconds) is for tests."""
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        with self._lock:
            if os.getpid() != self._pid:  # a forked child must not repeat its parent's ids
                self._process, self._pid = secrets.token_hex(2), os.getpid()
            if now > self._last_ms:
                self._last_ms, self._counter = now, 0
            elif self._counter == 0xFFFF:
                self._last_ms, self._counter = self._last_ms + 1, 0
            else:
                self._counter += 1
            return f"{self._last_ms:013d}-{self._process}{self._counter:04x}"


def is_episode_id(text: str) -> bool:
    """Whether `text` has the form of an episode id."""
    return _EPISODE.match(text) is not None


_TICK_BITS: Final = 40
_WORKER_BITS: Final = 16
_SEQUENCE_BITS: Final = 8


def pack_action_event_id(*, tick: int, worker_id: int, sequence: int) -> str:
    """The engine's id of one action: 40 bits of tick, 16 of worker, 8 of sequence, as 16 hex digits.

    Raises:
        ValidationError: a part is out of its range; the message names it.
    """
    parts = (
        ("tick", tick, _TICK_BITS),
        ("worker_id", worker_id, _WORKER_BITS),
        ("sequence", sequence, _SEQUENCE_BITS),
    )
    packed = 0
    for name, value, bits in parts:
        if not 0 <= value < 1 << bits:
            raise ValidationError(
                f"{name} {value} does not fit: expected 0..{(1 << bits) - 1}", path=f"$.{name}"
            )
        packed = packed << bits | value
    return f"{packed:016x}"


def unpack_action_event_id(text: str) -> tuple[int, int, int]:
    """The `(tick, worker_id, sequence)` of an id made by `pack_action_event_id`."""
    if not re.fullmatch(r"[0-9a-f]{16}", text):
        raise ValidationError(
            f"{text!r} is not an action event id: expected 16 lower-case hex digits", path="$.id"
        )
    packed = int(text, 16)
    return packed >> 24, packed >> 8 & 0xFFFF, packed & 0xFF


def check_scenario(name: str) -> str:
    """`name` if it can name a scenario (and so a folder, a model and a table row).

    Raises:
        ValidationError: it cannot; the message gives the form.
    """
    if not _SCENARIO.match(name):
        raise ValidationError(
            f"{name!r} cannot name a scenario: expected 1 to 64 of a-z, 0-9, '_' and '-', "
            "beginning with a letter or digit",
            path="$.scenario",
        )
    return name


def adapter_id(scenario: str, number: int) -> str:
    """The id of the `number`-th adapter of `scenario`: `scenario@n`."""
    return f"{scenario}@{number}"


def is_adapter_id(text: str) -> bool:
    """Whether `text` has the form of an adapter id."""
    return _ADAPTER.match(text) is not None


def parse_adapter_id(text: str) -> tuple[str, int]:
    """The `(scenario, number)` of an adapter id.

    Raises:
        ValidationError: `text` is not of the form `scenario@n`.
    """
    match = _ADAPTER.match(text)
    if match is None:
        raise ValidationError(
            f"{text!r} is not an adapter id: expected SCENARIO@NUMBER", path="$.id"
        )
    return match["scenario"], int(match["number"])


def run_id(family: str, size: str, *, now_s: float | None = None) -> str:
    """A run's id `{family}-{size}-{unix seconds}-{4 hex}`, unique inside one second, safe as a folder name."""
    seconds = int(time.time() if now_s is None else now_s)
    safe = re.sub(r"[^A-Za-z0-9._]+", "_", size) or "model"
    return f"{family}-{safe}-{seconds}-{secrets.token_hex(2)}"
