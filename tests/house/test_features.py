"""docs/features.md is what the tests are marked with, and every feature in it has a test."""

from pathlib import Path

import pytest

from tests.features import PAGE, marks_of, page, rows, shown_by


def test_every_feature_has_a_test() -> None:
    """A row that nothing shows is a claim."""
    assert sorted(rows().keys() - shown_by().keys()) == []


def test_every_mark_names_a_feature() -> None:
    """A mark that is mistyped shows nothing."""
    assert sorted(shown_by().keys() - rows().keys()) == []


def test_the_page_is_that_of_the_tests() -> None:
    """After a change: python -m tests.features > docs/features.md."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("@pytest.mark.feature('X-1')\ndef make() -> None: ...", "no test"),
        ("@pytest.mark.feature('X-1')\nclass TestIt: ...", "no test"),
        ("@pytest.mark.feature\ndef test_it() -> None: ...", "names no feature"),
    ],
)
def test_a_mark_that_shows_nothing_is_refused(tmp_path: Path, source: str, says: str) -> None:
    """On a function that pytest does not run, or without an id."""
    path = tmp_path / "test_it.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=says):
        list(marks_of(path))


def test_marks_are_read_from_the_source(tmp_path: Path) -> None:
    """Of plain and async tests, each id with its test."""
    path = tmp_path / "test_it.py"
    path.write_text(
        "@pytest.mark.feature('X-1', 'X-2')\nasync def test_one(): ...\ndef test_two(): ...\n"
    )
    assert list(marks_of(path)) == [("X-1", "test_one"), ("X-2", "test_one")]
