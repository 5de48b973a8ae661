"""What a data set is checked for: each fault is found, counted, and told by file and line."""

from pathlib import Path
from typing import Any

import pytest

from honed.checks.validator import DatasetReport, Finding, validate
from tests.unit.checks.rows import splits, talk, talks, write


def checked(folder: Path, **settings: Any) -> DatasetReport:
    names = {"train": "train", "validation": "val", "test": "test"}
    files = {
        name: path for name, stem in names.items() if (path := folder / f"{stem}.jsonl").exists()
    }
    return validate(files, **settings)


def only(report: DatasetReport, kind: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.kind == kind]
    return found


def append(path: Path, *rows: Any) -> None:
    write(path.with_suffix(".more"), rows)
    path.write_text(path.read_text() + path.with_suffix(".more").read_text())


@pytest.mark.feature("TR-099")
def test_a_good_data_set_has_no_finding(tmp_path: Path) -> None:
    """200, 20 and 60 rows: 71 % to train on, 7 % to stop by."""
    report = checked(splits(tmp_path, train=200))
    assert report.findings == ()
    assert report.passed
    assert (report.split_count, report.samples, report.leakage, report.errors) == (3, 280, 0, 0)
    assert report.splits["test"].num_rows == 60
    assert report.splits["train"].share == pytest.approx(200 / 280)


@pytest.mark.feature("TR-099")
def test_lines_that_are_no_rows_are_counted_and_named(tmp_path: Path) -> None:
    """Parse errors and missing fields apart; each with its first lines and what to do."""
    folder = splits(tmp_path)
    append(folder / "train.jsonl", "{", "[]", {"question": "how?"})
    report = checked(folder)
    assert not report.passed
    assert report.errors == 3
    parse, fields = only(report, "parse"), only(report, "fields")
    assert (parse.count, parse.lines, fields.lines) == (2, (201, 202), (203,))
    assert "line 201" in parse.text
    assert "format step" in parse.advice


@pytest.mark.feature("TR-099")
def test_copies_in_one_file_are_duplicates(tmp_path: Path) -> None:
    """By what they say: another id makes no other row."""
    folder = splits(tmp_path)
    append(folder / "train.jsonl", talk(3, id="other"), talk(3))
    report = checked(folder)
    assert report.duplicates == 2
    assert only(report, "duplicates").lines == (201, 202)
    assert report.passed
    assert report.leakage == 0


@pytest.mark.feature("TR-098", "TR-099")
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_row_that_was_trained_on_leaks(tmp_path: Path, split: str) -> None:
    """The same words in an earlier split, in whatever form."""
    folder = splits(tmp_path)
    said = [turn["content"] for turn in talk(5)["messages"]]
    append(folder / f"{split}.jsonl", {"instruction": said[0], "output": said[1], "language": "en"})
    report = checked(folder)
    assert report.leakage == 1
    leak = only(report, "leakage")
    assert leak.level == "error"
    assert "content" in leak.text
    assert "train" in leak.text


@pytest.mark.feature("TR-098", "TR-099")
@pytest.mark.parametrize("key", ["group_id", "task_id"])
def test_a_task_on_both_sides_leaks(tmp_path: Path, key: str) -> None:
    """Other words of the same task were trained on; a group and a task of one name are two things."""
    folder = splits(tmp_path)
    append(folder / "train.jsonl", talk(900, **{key: "a"}))
    append(folder / "test.jsonl", talk(901, **{key: "a"}), talk(902, metadata={key: "a"}))
    other = "task_id" if key == "group_id" else "group_id"
    append(folder / "test.jsonl", talk(903, **{other: "a"}))
    report = checked(folder)
    assert report.leakage == 2
    assert only(report, "leakage").lines == (61, 62)


@pytest.mark.feature("TR-099")
def test_the_same_question_with_another_answer_is_no_leak_but_told(tmp_path: Path) -> None:
    """An answer learned by heart would count as one that was understood."""
    folder = splits(tmp_path)
    row = talk(5)
    row["messages"][1]["content"] = "something else"
    append(folder / "test.jsonl", row)
    report = checked(folder)
    assert report.leakage == 0
    assert only(report, "same_question").level == "warning"


@pytest.mark.feature("TR-099")
def test_extreme_lengths_are_told(tmp_path: Path) -> None:
    """Too short to say anything; too long for the tokens that training reads."""
    folder = splits(tmp_path)
    short = {"text": "hi", "language": "en"}
    append(folder / "train.jsonl", short, talk(900, x=1), {"text": "x" * 500, "language": "en"})
    report = checked(folder, max_length=100)
    texts = [finding for finding in report.findings if finding.kind == "length"]
    assert [(finding.count, finding.lines) for finding in texts] == [(1, (201,)), (1, (203,))]
    assert "cut at 100 tokens" in texts[1].advice


@pytest.mark.feature("TR-099")
@pytest.mark.parametrize(("rows", "is_told"), [(49, True), (50, False)])
def test_a_tiny_test_set_is_told(tmp_path: Path, rows: int, is_told: bool) -> None:
    """What is measured on so few rows is hardly known."""
    report = checked(splits(tmp_path, test=rows))
    assert ("test_size" in {finding.kind for finding in report.findings}) is is_told
    assert report.passed


@pytest.mark.feature("TR-099")
def test_rows_without_a_language_tag_are_counted(tmp_path: Path) -> None:
    """So that results can be told by language."""
    folder = splits(tmp_path)
    append(folder / "val.jsonl", {**talk(900), "language": ""}, talk(901, metadata={"lang": "de"}))
    found = only(checked(folder), "language")
    assert (found.count, found.lines) == (1, (21,))


@pytest.mark.feature("TR-098", "TR-099")
@pytest.mark.parametrize(
    ("train", "validation", "test", "told"),
    [
        (70, 20, 10, []),
        (90, 5, 5, []),
        (69, 20, 11, ["train"]),
        (91, 5, 4, ["train"]),
        (90, 4, 6, ["validation"]),
        (75, 21, 4, ["validation"]),
    ],
)
def test_shares_of_the_splits(
    tmp_path: Path, train: int, validation: int, test: int, told: list[str]
) -> None:
    """Train 70 to 90 %, validation 5 to 20 %, both ends allowed."""
    report = checked(splits(tmp_path, train, validation, test))
    texts = [finding.text for finding in report.findings if finding.kind == "ratio"]
    assert [text.split()[0] for text in texts] == told


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    """A file of the right name holds nothing."""
    report = checked(splits(tmp_path, validation=0))
    assert only(report, "split").level == "error"
    assert report.split_count == 2


def test_files_that_are_no_splits_are_not_compared(tmp_path: Path) -> None:
    """Parts of one data set may share tasks; duplicates are those within a file."""
    one = write(tmp_path / "one.jsonl", talks(0, 5, task_id="a"))
    two = write(tmp_path / "two.jsonl", talks(0, 5, task_id="a"))
    report = validate({"one": one, "two": two})
    assert report.passed
    assert (report.leakage, report.duplicates, report.split_count) == (0, 0, 0)
