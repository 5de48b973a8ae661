"""What redaction finds and what it takes by mistake, counted on a corpus; prints the tables of docs/redaction.md.

    python -m tests.redaction_corpus

No secret is in the repository: templates name lengths and alphabets, and a seeded generator fills them in.
"""

import base64
import hashlib
import json
import random
import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from honed.redaction import PATTERNS, Redactor

DATA = Path(__file__).parent / "data"
UPPER, LOWER, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789"
ALPHABETS = {
    "a": UPPER + LOWER + DIGITS,
    "A": UPPER + "234567",
    "c": LOWER + DIGITS,
    "d": DIGITS,
    "f": "0123456789abcdef",
    "z": UPPER + LOWER,
}
VARIANTS = 20
"""How often each template is filled in."""


class Secret(NamedTuple):
    kind: str
    text: str
    hidden: str
    """What must be gone afterwards."""


def fill(template: str, rng: random.Random) -> str:
    """The template with its random parts."""
    text = template.replace("[P]", "PRIVATE " + "KEY-----").replace(
        "[B]", "PRIVATE " + "KEY BLOCK-----"
    )
    return re.sub(
        r"\[([aAcdfz]):([0-9]+)\]",
        lambda found: "".join(rng.choices(ALPHABETS[found[1]], k=int(found[2]))),
        text,
    )


def secrets() -> Iterator[Secret]:
    """Each line of secrets.tsv, filled in `VARIANTS` times."""
    rng = random.Random(11)
    for line in (DATA / "redaction" / "secrets.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        kind, template = line.split("\t")
        for _ in range(VARIANTS):
            text = fill(
                template.replace("\\\\n", "\0").replace("\\n", "\n").replace("\0", "\\n"), rng
            )
            before, hidden, after = re.split("[«»]", text)
            yield Secret(kind, before + hidden + after, hidden)


ENCODERS: dict[str, Callable[[object], str]] = {
    "as it is": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "ASCII only": json.dumps,
    "slashes escaped": lambda value: json.dumps(value).replace("/", "\\/"),
}


def as_event(text: str) -> dict[str, object]:
    """An action whose output is the text."""
    return {"type": "action", "task_id": "t", "tick": 1, "worker_id": 0, "action": "run",
            "result": {"success": True, "output": text}}  # fmt: skip


def recall(redactor: Redactor) -> dict[str, tuple[int, int]]:
    """By kind: how many of the secrets are gone, and of how many; in the text itself and as a tool's argument."""
    total: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    for secret in secrets():
        for text in (secret.text, json.dumps({"cmd": secret.text, "n": 1})):
            total[secret.kind] += 1
            redacted = redactor.redact(json.dumps(as_event(text)).encode())
            gone[secret.kind] += redacted is not None and not _is_left(secret, redacted.line)
    return {kind: (gone[kind], total[kind]) for kind in sorted(total)}


def _is_left(secret: Secret, line: bytes) -> bool:
    """Whether the secret, or half of it, is still there."""
    output = json.loads(line)["result"]["output"]
    parts = [part for part in re.split(r"\s+|\\n", secret.hidden) if part]
    half = max(parts, key=len)
    return any(piece in output for piece in (half, half[len(half) // 2 :], half[: (len(half) + 1) // 2])
               if len(piece) >= 4)  # fmt: skip


def ordinary() -> dict[str, list[str]]:
    """Texts without a secret, by what they are."""
    rng = random.Random(12)
    return {
        "airline dialogues (tests/data)": [
            str(turn["content"])
            for line in (DATA / "tau-airline-excerpt.jsonl").read_text().splitlines()
            for turn in json.loads(line)["traj"]
            if turn.get("content")
        ],
        "near misses written by hand": [
            fill(line.replace("\\n", "\n"), rng)
            for line in (DATA / "redaction" / "ordinary.txt").read_text().splitlines()
        ],
        "uuids": [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(5_000)],
        "git and SHA-256 hashes": [
            hashlib.new(rng.choice(("sha1", "sha256")), rng.randbytes(8)).hexdigest() for _ in range(5_000)
        ],
        "images in base64, 3 KB": [base64.b64encode(rng.randbytes(2_304)).decode() for _ in range(500)],
        "prices, times and order numbers": [_numbers(rng) for _ in range(5_000)],
        "16-digit numbers": [str(rng.randrange(10**15, 10**16)) for _ in range(5_000)],
        "vectors of 100 floats": [json.dumps([rng.gauss(0, 1) for _ in range(100)]) for _ in range(200)],
    }  # fmt: skip


def _numbers(rng: random.Random) -> str:
    return (
        f"order {rng.randrange(10**6, 10**11)}, {rng.randrange(1, 10**6) / 100:.2f} EUR,"
        f" at {rng.randrange(1_600_000_000_000, 1_900_000_000_000)} ms,"
        f" {2000 + rng.randrange(30)}-{1 + rng.randrange(12):02d}-{1 + rng.randrange(28):02d}"
        f"T{rng.randrange(24):02d}:{rng.randrange(60):02d}:00Z,"
        f" SKU {rng.randrange(1000):03d}-{rng.randrange(10**6):06d}"
    )


def false_positives(redactor: Redactor) -> dict[str, tuple[int, int, dict[str, int]]]:
    """By corpus: texts from which something was taken, texts in all, and what was taken by kind."""
    report = {}
    for name, texts in ordinary().items():
        hit, taken = 0, Counter[str]()
        for text in texts:
            redacted = redactor.redact(json.dumps(as_event(text)).encode())
            hit += redacted is not None
            taken.update({} if redacted is None else redacted.counts)
        report[name] = (hit, len(texts), dict(taken))
    return report


def report() -> str:
    """Both tables, in Markdown."""
    redactor = Redactor(secret=b"corpus")
    rows = ["| kind | gone | of | recall |", "|---|---|---|---|"]
    found = recall(redactor)
    found["all"] = (sum(gone for gone, _ in found.values()), sum(n for _, n in found.values()))
    rows += [f"| {kind} | {gone} | {n} | {gone / n:.1%} |" for kind, (gone, n) in found.items()]
    rows += [
        "",
        "| ordinary text | texts | with a false positive | share | taken for |",
        "|---|---|---|---|---|",
    ]
    for name, (hit, n, taken) in false_positives(redactor).items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(taken.items()))
        rows.append(f"| {name} | {n:,} | {hit} | {hit / n:.2%} | {kinds} |")
    return "\n".join(rows)


def examples() -> Iterator[tuple[int, str]]:
    """The examples of the table, filled in, with the index of their pattern."""
    rng = random.Random(13)
    for index, pattern in enumerate(PATTERNS):
        for example in pattern.examples:
            yield index, fill(example, rng)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
