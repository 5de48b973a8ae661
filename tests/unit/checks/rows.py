"""Data sets for the checks, written on the spot."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def talk(number: int, **more: Any) -> dict[str, Any]:
    """A conversation that no other number has."""
    messages = [
        {"role": "user", "content": f"alert {number}: what is wrong?"},
        {"role": "assistant", "content": f"service {number} needs a restart"},
    ]
    return {"messages": messages, "language": "en", **more}


def talks(first: int, count: int, **more: Any) -> list[dict[str, Any]]:
    """Conversations of consecutive numbers."""
    return [talk(number, **more) for number in range(first, first + count)]


def write(path: Path, rows: Iterable[Any]) -> Path:
    """JSON lines; a text is written as it stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def splits(folder: Path, train: int = 200, validation: int = 20, test: int = 60) -> Path:
    """Three files without anything in common."""
    write(folder / "train.jsonl", talks(0, train))
    write(folder / "val.jsonl", talks(10_000, validation))
    write(folder / "test.jsonl", talks(20_000, test))
    return folder
