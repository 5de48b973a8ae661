"""Training data as JSON lines, in the forms that trainers read, and their metadata beside them.

Rows come in one order and are wanted in another (shuffled, or by id). So they are written to a
spool first and copied in their final order; only offsets stay in memory.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, NamedTuple, Self

import msgspec

from honed.domain.message import Message
from honed.domain.training_data import (
    ChatExample,
    LabelledExample,
    PreferencePair,
    TrainingData,
    TrainingMetadata,
)

Turns = Literal["messages", "conversations"]

_encoder: Final = msgspec.json.Encoder()


def format_row(data: TrainingData, *, turns: Turns = "messages") -> bytes:
    """One line of the data file, without the newline: TRL's columns, no metadata.

    Args:
        data: any.
        turns: the column of a conversation's turns.
    """
    row: dict[str, Any]
    match data:
        case ChatExample():
            row = {turns: format_turns(data.messages)}
        case PreferencePair():
            row = {
                "prompt": format_turns(data.prompt),
                "chosen": format_turns(data.chosen),
                "rejected": format_turns(data.rejected),
            }
        case LabelledExample():
            row = {
                "prompt": format_turns(data.prompt),
                "completion": format_turns(data.completion),
                "label": data.label,
            }
    if data.tools:
        row["tools"] = data.tools
    if isinstance(data, ChatExample) and data.trained_turns is not None:
        row["trained_turns"] = data.trained_turns
    return _encoder.encode(row)


def format_metadata(data: TrainingData) -> bytes:
    """The line of the metadata file that belongs to `format_row(data)`."""
    return _encoder.encode(data.metadata)


def format_turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Turns as trainers and chat templates read them."""
    turns: list[dict[str, Any]] = [msgspec.to_builtins(message) for message in messages]
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            call["type"] = (
                "function"  # a default, so left out; chat templates and servers ask for it
            )
        if not isinstance(content := turn.get("content"), str | None):
            turn["content"] = [{"type": "text"} | part for part in content]
    return turns


class SpooledRow(NamedTuple):
    """Where one row and its metadata lie in the spool."""

    offset: int
    data_size: int
    metadata_size: int
    digest: bytes
    """Of its line."""
    near: str | None = None
    """The episode of a row that says nearly the same and is worth more; goes into the metadata."""


class RowSpool:
    """Rows on disk in order of arrival, without a name; a context manager."""

    def __init__(self, folder: Path, *, turns: Turns = "messages") -> None:
        self._folder = folder
        self._turns = turns
        self._offset = 0

    def __enter__(self) -> Self:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, data: TrainingData) -> SpooledRow:
        """Append a row; where it lies."""
        line = format_row(data, turns=self._turns) + b"\n"
        metadata = format_metadata(data) + b"\n"
        digest = _digest(line)
        row = SpooledRow(self._offset, len(line), len(metadata), digest)
        self._file.write(line)
        self._file.write(metadata)
        self._offset += len(line) + len(metadata)
        return row

    def write(self, rows: Iterable[SpooledRow], path: Path, metadata_path: Path) -> str:
        """Copy rows in the given order into two new files; the sha256 of the data file."""
        self._file.flush()
        digest = hashlib.sha256()
        aside = path.with_name(f".{path.name}"), metadata_path.with_name(f".{metadata_path.name}")
        with aside[0].open("wb") as data_file, aside[1].open("wb") as metadata_file:
            for row in rows:
                self._file.seek(row.offset)
                line = self._file.read(row.data_size)
                digest.update(line)
                data_file.write(line)
                metadata = self._file.read(row.metadata_size)
                metadata_file.write(metadata if row.near is None else _marked(metadata, row.near))
            for file in (data_file, metadata_file):
                file.flush()
                os.fsync(file.fileno())
        aside[1].replace(metadata_path)
        aside[0].replace(path)
        return digest.hexdigest()


def row_digest(data: TrainingData) -> bytes:
    """The digest that a row has in the spool."""
    return _digest(format_row(data) + b"\n")


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


def _marked(metadata: bytes, near: str) -> bytes:
    """The line of metadata with the episode that the row is a near-duplicate of."""
    told = msgspec.json.decode(metadata, type=TrainingMetadata)
    return _encoder.encode(msgspec.structs.replace(told, near_duplicate_of=near)) + b"\n"
