"""Rows of a file as raw JSON: JSON lines, or one array; plain or gzip; a path or standard input.

A file is read piece by piece, so memory follows the longest row and not the file. The items of an
array are found by its brackets alone; whether one is good JSON is the reader's to say.
"""

import contextlib
import errno
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from honed.errors import SourceError

MAX_ROW: Final = 64 << 20
"""Bytes of one row at most; a longer one is reported, not read."""
_CHUNK: Final = 1 << 20
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
"""A whole string, or what gives an array its shape; a lone quote is a string that goes on."""


class BadRow(NamedTuple):
    """A row that cannot be taken."""

    line: int
    """Line of the file, or item of its array, from 1."""
    reason: str


class Row(NamedTuple):
    """A row that may be good."""

    line: int
    text: bytes


class RowFile:
    """The rows of one open file, in order; blank lines are skipped."""

    def __init__(self, path: Path | None, raw: io.BufferedReader) -> None:
        self._path = path
        self._raw = raw
        self.size = path.stat().st_size if path is not None and path.is_file() else None
        """Bytes of the file on disk; None for a pipe."""
        is_gzip = raw.peek(2)[:2] == _GZIP_MAGIC
        self._file = io.BufferedReader(gzip.GzipFile(fileobj=raw), _CHUNK) if is_gzip else raw
        self.unit: Literal["line", "item"] = "line"
        """What the numbers count; known with the first row."""

    @property
    def position(self) -> int:
        """Bytes of it that have been read."""
        return 0 if self.size is None else self._raw.tell()

    def __iter__(self) -> Iterator[Row | BadRow]:
        try:
            yield from self._rows()
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self._path, error) from error

    def _rows(self) -> Iterator[Row | BadRow]:
        number, head = 0, b""
        while not head.strip():
            if not (head := self._file.readline(_CHUNK)):
                return
            number += 1
            head = head.removeprefix(_BOM) if number == 1 else head
        if head.lstrip().startswith(b"["):  # perhaps all on one line: only its first piece is here
            self.unit = "item"
            yield from _items(self._file, bytearray(head.lstrip()[1:]))
        else:
            if not head.endswith(b"\n"):
                head += self._file.readline(MAX_ROW + 1 - len(head))
            yield from _lines(self._file, number, head)


def check_readable(path: Path) -> None:
    """Raise SourceError for a file that is not there; reads nothing, so pipes lose nothing."""
    if str(path) == "-":
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def open_rows(path: Path) -> Iterator[RowFile]:
    """The rows of a file; `-` is standard input.

    Raises:
        SourceError: the file cannot be read, now or while its rows are.
    """
    if str(path) == "-":
        yield RowFile(None, sys.stdin.buffer)  # type: ignore[arg-type]
        return
    try:
        raw = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with raw:
        try:
            rows = RowFile(path, raw)
        except OSError as error:
            raise _unreadable(path, error) from error
        yield rows


def _unreadable(path: Path | None, error: Exception) -> SourceError:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SourceError(f"trajectories {path or 'on standard input'} cannot be read: {said}")


def _lines(file: io.BufferedIOBase, number: int, line: bytes) -> Iterator[Row | BadRow]:
    while line:
        if len(line) > MAX_ROW:
            yield BadRow(number, f"the row has more than {MAX_ROW} bytes")
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW)
        elif line.strip():
            yield Row(number, line)
        line = file.readline(MAX_ROW + 1)
        number += 1


def _items(file: io.BufferedIOBase, buffer: bytearray) -> Iterator[Row | BadRow]:
    """The items of an array whose opening bracket has been read."""
    number, depth, at = 1, 1, 0
    while True:
        token = _TOKEN.search(buffer, at)
        if token is None or token[0] == b'"':
            at = len(buffer) if token is None else token.start()
            more = file.read(max(_CHUNK, len(buffer)))
            if not more:
                yield BadRow(number, "the file ends inside its array: it was cut off")
                return
            if len(buffer) > MAX_ROW:
                yield BadRow(
                    number, f"the item has more than {MAX_ROW} bytes: the rest is not read"
                )
                return
            buffer += more
            continue
        at = token.end()
        if token[0] in (b"[", b"{"):
            depth += 1
        elif token[0] in (b"]", b"}"):
            depth -= 1
        if depth and not (depth == 1 and token[0] == b","):
            continue
        item = bytes(buffer[: token.start()]).strip()
        if item:
            yield Row(number, item)
        elif depth:
            yield BadRow(number, "the item is empty: two commas in a row")
        del buffer[:at]
        number, at = number + 1, 0
        if not depth:
            if buffer.strip() or any(iter(lambda: file.read(_CHUNK).strip(), b"")):
                yield BadRow(number, "text follows the end of the array: it is not read")
            return
