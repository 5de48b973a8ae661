"""The files of a run as the worker reads them: one form for all that is accepted.

row                                       written as
messages, conversations                   {"messages", "tools", "trained_turns"}
instruction, input, output                the same: system and user turn; without input the user's turn alone
prompt, completion                        the same, of which the completion counts
prompt, completion, label                 {"prompt", "completion", "label"}
prompt, chosen, rejected                  {"prompt", "chosen", "rejected"}
text                                      {"text"}
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec

from honed.checks.dataset_rows import FORMAT_STEP, DatasetRow, Fault, read_rows
from honed.errors import ValidationError

_TOLD: Final = 5
"""Faults of a file that are named."""
_WHAT: Final = {"text": "texts", "preference": "pairs of answers", "labelled": "labelled answers"}


def write_rows(source: Path, target: Path, *, text_field: str) -> int:
    """Write a data file for the worker; returns the number of its rows.

    Raises:
        ValidationError: it cannot be read, a line is no row (all are counted, the first ones named), its rows are not
            of one kind, or there are none.
    """
    try:
        return _write_rows(source, target, text_field)
    except OSError as error:
        raise ValidationError(
            f"{target} cannot be written: {error.strerror}",
            advice="free some space there, or name another folder in training.output_dir",
        ) from error


def _write_rows(source: Path, target: Path, text_field: str) -> int:
    faults: list[Fault] = []
    kinds: Counter[str] = Counter()
    with _Lines(source) as raw, target.open("wb") as out:
        for each in read_rows(source, text_field=text_field):
            if isinstance(each, Fault):
                faults.append(each)
                continue
            data = raw.line(each.line) if each.form in ("text", "preference", "completion") else {}
            kind, row = _row(each, data, text_field)
            kinds[kind] += 1
            out.write(msgspec.json.encode(row) + b"\n")
    _see_that_it_teaches(source, faults, kinds)
    return kinds.total()


def _see_that_it_teaches(source: Path, faults: list[Fault], kinds: Counter[str]) -> None:
    if faults:
        told = "; ".join(f"line {fault.line}: {fault.text}" for fault in faults[:_TOLD])
        more = f"; and {len(faults) - _TOLD} more" if len(faults) > _TOLD else ""
        raise ValidationError(f"{source}: {told}{more}", advice=FORMAT_STEP)
    if not kinds:
        raise ValidationError(f"{source} has no row", advice=FORMAT_STEP)
    if len(kinds) > 1:
        counts = ", ".join(f"{num} {_WHAT.get(kind, kind)}" for kind, num in kinds.most_common())
        raise ValidationError(
            f"{source} mixes {counts}: expected rows of one kind",
            advice="make a file of each and train them one after the other",
        )


class _Lines:
    """The lines of a file by their number, asked for in rising order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0

    def __enter__(self) -> "_Lines":
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise ValidationError(
                f"{self._path} cannot be read: {error.strerror}",
                advice="name the training file in dataset.path",
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def line(self, number: int) -> dict[str, Any]:
        """The object in a line, from 1."""
        while self._number < number:
            text = self._file.readline()
            self._number += 1
        found: dict[str, Any] = json.loads(text)
        return found


def _row(row: DatasetRow, data: dict[str, Any], text_field: str) -> tuple[str, dict[str, Any]]:
    """What kind a row is, and the row as the worker reads it."""
    if row.form == "text":
        return "text", {"text": data[text_field]}
    tools = {"tools": row.tools} if row.tools else {}
    if row.form == "preference":
        sides = {name: _side(data, name) for name in ("prompt", "chosen", "rejected")}
        return "preference", sides | tools
    if row.form == "completion" and isinstance(data.get("label"), bool):
        sides = {name: _side(data, name) for name in ("prompt", "completion")}
        return "labelled", {**sides, "label": data["label"], **tools}
    trained = row.trained_turns
    if row.form == "completion":
        trained = list(range(len(_side(data, "prompt")), len(row.turns)))
    counted = {} if trained is None else {"trained_turns": trained}
    return "conversations", {"messages": list(row.turns), **tools, **counted}


def _side(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    side = data[name]
    if isinstance(side, str):
        return [{"role": "user" if name == "prompt" else "assistant", "content": side}]
    turns: list[dict[str, Any]] = side
    return turns
