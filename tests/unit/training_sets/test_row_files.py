"""Rows come out of lines, arrays and compressed files alike, whatever the file's size."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from honed.errors import SourceError
from honed.training_sets import BadRow, open_rows
from honed.training_sets.row_files import Row

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just('a "]" \\ b'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, min_size=1), max_size=6)


def read(path: Path) -> list[Row | BadRow]:
    with open_rows(path) as rows:
        return list(rows)


def values(rows: list[Row | BadRow]) -> list[Any]:
    return [json.loads(row.text) if isinstance(row, Row) else row for row in rows]


def numbers(rows: list[Row | BadRow]) -> list[int]:
    return [row.line for row in rows]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(rows=ROWS, indent=st.sampled_from([None, 1]), is_ascii=st.booleans())
def test_the_items_of_an_array_are_its_rows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    rows: list[Any],
    indent: int | None,
    is_ascii: bool,
) -> None:
    """However it is written, and wherever the pieces that are read begin and end."""
    monkeypatch.setattr("honed.training_sets.row_files._CHUNK", chunk)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=is_ascii))
    found = read(path)
    assert values(found) == rows
    assert numbers(found) == list(range(1, len(rows) + 1))


def test_lines_and_compressed_lines_are_the_same(tmp_path: Path) -> None:
    """Compression is told by the content, not by the name; a byte order mark is no content."""
    text = '\ufeff{"a": 1}\n\n  \n{"b": 2}'
    plain, packed = tmp_path / "rows.jsonl", tmp_path / "rows.json"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    assert read(plain) == read(packed)
    assert values(read(plain)) == [{"a": 1}, {"b": 2}]
    assert numbers(read(plain)) == [1, 4]


@pytest.mark.parametrize(
    ("text", "good", "says"),
    [
        ('[{"a": 1}, {"b": "cut', [{"a": 1}], "cut off"),
        ('[{"a": 1},, {"b": 2}]', [{"a": 1}, {"b": 2}], "two commas"),
        ('[{"a": 1}] {"b": 2}', [{"a": 1}], "text follows the end"),
        ('[{"a": "' + "x" * 2_000 + '"}, {"b": 2}]', [], "more than 1000 bytes"),
    ],
)
def test_a_broken_array_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, good: list[Any], says: str
) -> None:
    """What can be told apart is read, and what cannot is reported once."""
    monkeypatch.setattr("honed.training_sets.row_files.MAX_ROW", 1_000)
    monkeypatch.setattr("honed.training_sets.row_files._CHUNK", 16)
    path = tmp_path / "rows.json"
    path.write_text(text)
    found = read(path)
    assert values([row for row in found if isinstance(row, Row)]) == good
    (bad,) = [row for row in found if isinstance(row, BadRow)]
    assert says in bad.reason


def test_a_compressed_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    """Not an early end."""
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1_000)[:-12])
    with pytest.raises(SourceError, match=r"rows\.gz cannot be read"):
        read(path)


def test_memory_follows_the_row_not_the_file(tmp_path: Path) -> None:
    """An array of 20 MB is read in a fraction of that."""
    path = tmp_path / "rows.json"
    row = json.dumps({"text": "x" * 10_000})
    with path.open("w") as file:
        file.write("[" + row)
        for _ in range(2_000):
            file.write("," + row)
        file.write("]")
    tracemalloc.start()
    with open_rows(path) as rows:
        count = sum(1 for _ in rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2_001
    assert peak < 8 << 20
