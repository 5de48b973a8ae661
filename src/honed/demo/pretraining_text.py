"""The text that the demo's base model is made from: it teaches to read, and nothing about what to do.

Three quarters are incidents: the subject of each finding is named rightly, the action is drawn blindly by a
generator of its own, every change answers "no effect", and lengths are drawn blindly too, because a conversation
that ended at the right change would give it away. One quarter is "repeat the last line", which makes a model of this
size copy. The world's right changes are not an argument of anything here; `count_right` measures afterwards that
they appear as often as chance has it.
"""

import json
import random
from pathlib import Path
from typing import Final, NamedTuple

from honed.demo.environment import (
    CAUSES,
    CHANGES,
    INSPECTIONS,
    SERVICES,
    SYSTEM,
    UNKNOWN,
    World,
    alert_text,
    finding_text,
    no_effect_text,
    parse_reply,
)

NUM_CONVERSATIONS: Final = 6_000
_REPEAT_SHARE: Final = 0.25
_REPEAT: Final = "Repeat the last line."

Messages = list[dict[str, str]]


class Labelled(NamedTuple):
    """A conversation and the cause that its findings show; None for a repetition."""

    messages: Messages
    cause: str | None


class ChangeCount(NamedTuple):
    """Changes in a text, and how many of them were right for their cause."""

    right: int
    total: int


def conversations(seed: int, count: int = NUM_CONVERSATIONS) -> list[Labelled]:
    """The text, reproducible from the seed."""
    reading, blind = random.Random(f"{seed}/reading"), random.Random(f"{seed}/blind")
    return [
        _repetition(reading) if reading.random() < _REPEAT_SHARE else _incident(reading, blind)
        for _ in range(count)
    ]


def write_conversations(path: Path, text: list[Labelled]) -> None:
    """The conversations as JSON lines `{"messages": [...]}`; causes stay out of the file."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": item.messages}) + "\n" for item in text)


def count_right(text: list[Labelled], world: World) -> ChangeCount:
    """How many changes in the text are the right one for the cause that was shown."""
    right = total = 0
    for messages, cause in text:
        for message in messages:
            reply = parse_reply(message["content"]) if message["role"] == "assistant" else None
            if cause is not None and reply is not None and reply.action in CHANGES:
                total += 1
                right += reply.action == world.right[cause]
    return ChangeCount(right, total)


def _incident(reading: random.Random, blind: random.Random) -> Labelled:
    cause, service = reading.choice(tuple(CAUSES)), reading.choice(SERVICES)
    inspection = blind.choice(INSPECTIONS)
    messages = [
        _turn("system", SYSTEM),
        _turn("user", alert_text(reading, service)),
        _turn("assistant", f"{UNKNOWN}: {inspection}"),
        _turn("user", finding_text(reading, inspection, cause, service)),
    ]
    num_changes = blind.choice((1, 2, 2))
    for i in range(num_changes):
        change = blind.choice(CHANGES)
        messages.append(_turn("assistant", f"{cause}: {change}"))
        if i + 1 < num_changes:
            messages.append(_turn("user", no_effect_text(change)))
    return Labelled(messages, cause)


def _repetition(reading: random.Random) -> Labelled:
    service = reading.choice(SERVICES)
    line = finding_text(
        reading, reading.choice(INSPECTIONS), reading.choice(tuple(CAUSES)), service
    )
    if reading.random() < 0.5:
        line = alert_text(reading, service)
    messages = [
        _turn("system", SYSTEM),
        _turn("user", f"{_REPEAT}\n{line}"),
        _turn("assistant", line),
    ]
    return Labelled(messages, None)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
