"""The test set as the worker reads it: conversations, whatever form its rows have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from honed.checks.dataset_rows import FORMAT_STEP, DatasetRow, Fault, read_rows
from honed.errors import ValidationError


def conversations(path: Path, *, text_field: str = "text") -> Iterator[dict[str, Any]]:
    """Each row as `{"messages", "tools", "trained_turns"}`.

    Raises:
        ValidationError: the file cannot be read, or a row has no turns to tell the assistant's by.
    """
    for row in read_rows(path, text_field=text_field):
        if isinstance(row, Fault):
            raise ValidationError(f"{path}, line {row.line}: {row.text}", advice=FORMAT_STEP)
        yield _conversation(row, path)


def _conversation(row: DatasetRow, path: Path) -> dict[str, Any]:
    if row.form in ("text", "preference"):
        what = "preformatted text" if row.form == "text" else "a pair of answers"
        raise ValidationError(
            f"{path}, line {row.line} is {what}: expected one conversation, to count the assistant's tokens of",
            advice=FORMAT_STEP,
        )
    return {"messages": row.turns, "tools": row.tools, "trained_turns": row.trained_turns}


def write_conversations(path: Path, target: Path, *, text_field: str = "text") -> int:
    """Write the rows of `path` into `target`, one a line; returns how many there are.

    Raises:
        ValidationError: as `conversations`, or there is no row.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with target.open("wb") as file:
        for row in conversations(path, text_field=text_field):
            count += 1
            file.write(msgspec.json.encode(row) + b"\n")
    if not count:
        raise ValidationError(
            f"the test set {path} has no row", advice="hold some rows back for it"
        )
    return count
