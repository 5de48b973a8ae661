"""What docs/data.md says about each form of rows is so: its examples are read, or refused."""

import re
from pathlib import Path

import pytest

from honed.training_sets import EXPORTS, FORMATS, BadRow, Reading, open_rows, read_rows

TEXT = (Path(__file__).parents[2] / "docs/data.md").read_text()
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##)", TEXT, re.DOTALL | re.MULTILINE))


def _rows(folder: Path, form: str, kind: str) -> list[Reading | BadRow]:
    (block,) = re.findall(rf"```{kind}\n(.*?)```", SECTIONS[form], re.DOTALL)
    path = folder / "rows.jsonl"
    path.write_text(block)
    with open_rows(path) as rows:
        return list(read_rows(rows))


def test_every_form_has_a_section_and_a_row_in_the_table() -> None:
    """None is missing, in the order in which they are tried."""
    assert set(SECTIONS) == set(FORMATS)
    tried, _, written = TEXT.partition("## Export")
    assert re.findall(r"^\| `(\S+)` \|", tried, re.MULTILINE) == list(FORMATS)
    keys = dict(re.findall(r"^\| `(\S+)` \| (.*?) \|", tried, re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", found)) for name, found in keys.items()} == {
        name: set(form.keys) for name, form in FORMATS.items()
    }
    assert set(re.findall(r"^\| `(\S+)` \|", written, re.MULTILINE)) == set(EXPORTS)


@pytest.mark.parametrize("form", FORMATS)
def test_the_examples_of_a_form_are_read_as_it(tmp_path: Path, form: str) -> None:
    """Two lines each, told by their keys."""
    found = _rows(tmp_path, form, "json")
    assert [row.format if isinstance(row, Reading) else row.reason for row in found] == [form] * 2


@pytest.mark.parametrize("form", FORMATS)
def test_the_refused_examples_of_a_form_are_refused(tmp_path: Path, form: str) -> None:
    """Each line with a reason."""
    found = _rows(tmp_path, form, "json refused")
    assert found
    assert all(isinstance(row, BadRow) and row.reason for row in found), found
