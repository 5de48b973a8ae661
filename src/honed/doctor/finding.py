"""What a check says: how bad, what was found, what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import Struct

Status = Literal["ok", "warn", "fail"]
_ORDER: Final[tuple[Status, ...]] = ("ok", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of one check."""

    status: Status
    text: str
    advice: str | None = None
    """What to do; always there unless the status is ok."""


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the report."""

    check: str
    status: Status
    """`warn`: honed works, but not as well or as safely as it could; `fail`: something does not work."""
    found: str
    advice: str | None = None


def ok(text: str) -> Found:
    """All is as it should be."""
    return Found("ok", text)


def warn(text: str, advice: str) -> Found:
    """It works, but someone should look."""
    return Found("warn", text, advice)


def fail(text: str, advice: str) -> Found:
    """It does not work."""
    return Found("fail", text, advice)


def together(parts: Iterable[Found]) -> Found:
    """Several findings as one: the worst status, its texts first, all advice."""
    found = sorted(parts, key=lambda part: _ORDER.index(part.status), reverse=True)
    advice = "; ".join(dict.fromkeys(part.advice for part in found if part.advice))
    return Found(found[0].status, "; ".join(part.text for part in found), advice or None)


def gib(size: float) -> str:
    """Bytes as people read them."""
    if size < 1 << 20:
        return f"{size / (1 << 10):.0f} KiB"
    if size < 1 << 30:
        return f"{size / (1 << 20):.0f} MiB"
    return f"{size / (1 << 30):.1f} GiB"
