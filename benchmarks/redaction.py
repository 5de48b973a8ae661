"""What redaction costs per event, beside the same patterns one after another in Python's `re`.

    python benchmarks/redaction.py [--events 20000] [--rounds 5]

Events are those of benchmarks/ingest.py (about 930 bytes), of which 0.5 % hold a secret and 3.8 % a `\\u` escape.
`re` runs over the decoded strings, as it would have to; decoding is not counted for it.
"""

import argparse
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.feeds.events import make_lines

from honed.redaction import DEFAULT_KINDS, PATTERNS, Redactor
from honed.redaction.strings import joined

SECRETS = (
    "AKIA" + "Q7" * 8,
    "password=tr0ub4dor-3",
    "jane.doe@example.org",
    "Bearer " + "a1B2c3D4" * 5,
)


def events(count: int, *, secret: float, escape: float) -> list[bytes]:
    """The lines, with secrets and escapes in the output of the action or the content of the call."""
    rng = random.Random(5)
    lines = []
    for line in make_lines(count):
        text = line.rstrip(b"\n")
        if rng.random() < secret:
            text = text.replace(b"node ", rng.choice(SECRETS).encode() + b" ", 1)
        if rng.random() < escape:
            text = text.replace(b"pod ", rb"\u001b[32mpod ", 1)
        lines.append(text)
    return lines


def microseconds(work: Callable[[bytes], object], lines: Sequence[bytes]) -> float:
    """CPU time of this thread per line."""
    started = time.thread_time()
    for line in lines:
        work(line)
    return (time.thread_time() - started) / len(lines) * 1e6


def python_patterns() -> list[re.Pattern[bytes]]:
    """The tight forms as `re` writes them."""
    chosen = [p for p in PATTERNS if p.kind in DEFAULT_KINDS and not p.is_field]
    return [re.compile(p.tight.replace(r"\z", r"\Z").encode()) for p in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    redactor = Redactor(secret=b"bench")
    lines = events(arguments.events, secret=0.005, escape=0.038)
    plain = events(arguments.events, secret=0, escape=0)
    hits = [line for line in events(2_000, secret=1, escape=0) if redactor.redact(line)]
    escaped = events(2_000, secret=0, escape=1)
    patterns = python_patterns()
    few = lines[: max(200, len(lines) // 20)]

    def sequence(line: bytes) -> None:
        for pattern in patterns:
            pattern.search(line)

    texts = [joined(line) for line in few]
    rounds = [
        (
            microseconds(redactor.redact, lines),
            microseconds(redactor.redact, plain),
            microseconds(redactor.redact, escaped),
            microseconds(redactor.redact, hits),
            microseconds(sequence, texts),
        )
        for _ in range(arguments.rounds)
    ]
    mixed, nothing, with_escape, with_hit, python = (
        statistics.median(column) for column in zip(*rounds, strict=True)
    )
    size = sum(map(len, lines)) / len(lines)
    print(
        f"{len(PATTERNS)} patterns, events of {size:.0f} bytes, median of {arguments.rounds} rounds"
    )
    print(f"  events with 0.5 % secrets and 3.8 % escapes  {mixed:7.2f} us per event")
    print(f"  events with neither                         {nothing:7.2f}")
    print(f"  with an escape, nothing found               {with_escape:7.2f}")
    print(f"  with a secret                               {with_hit:7.2f}")
    print(
        f"  Python's re, {len(patterns)} patterns in sequence       {python:7.2f}   {python / mixed:.0f} times"
    )


if __name__ == "__main__":
    main()
