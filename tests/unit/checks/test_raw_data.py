"""Sources, kinds and labels are counted; what nobody said is absent."""

from pathlib import Path

import pytest

from honed.checks.improvement import accuracy, interval
from honed.checks.measures import Tokens
from honed.checks.raw_data import agreement, count_raw
from honed.errors import ValidationError
from tests.unit.checks.rows import talks, write


def test_sources_and_categories_are_counted(tmp_path: Path) -> None:
    """Over all files; a line that is no row does not count."""
    one = write(tmp_path / "a.jsonl", [*talks(0, 3, source="s1", category="disk"), "{"])
    two = write(tmp_path / "b.jsonl", [*talks(5, 2, metadata={"source": "s2"}), *talks(9, 1)])
    sources, raw = count_raw([one, two], expected=["disk", "memory", "disk"])
    assert (sources.source_count, sources.sources, sources.untold) == (2, {"s1": 3, "s2": 2}, 1)
    assert (raw.samples, raw.diversity, raw.categories) == (6, 1, {"disk": 3})
    assert (raw.coverage, raw.missing) == (50.0, ("memory",))
    assert count_raw([one])[1].coverage is None


def test_agreement_is_that_of_pairs_on_one_item(tmp_path: Path) -> None:
    """Worked by hand: 12 units, 4 observers, with gaps. Alpha 0.743 is Krippendorff's own example (2011, section C)."""
    observers = {
        "a": "1 2 3 3 2 1 4 1 2 . . .",
        "b": "1 2 3 3 2 2 4 1 2 5 . 3",
        "c": ". 3 3 3 2 3 4 2 2 5 1 .",
        "d": "1 2 3 3 2 4 4 1 2 5 1 .",
    }
    rows = [
        {"item": i, "annotator": name, "label": label}
        for name, labels in observers.items()
        for i, label in enumerate(labels.split())
        if label != "."
    ]
    found = agreement(write(tmp_path / "labels.jsonl", rows))
    assert found.alpha == pytest.approx(0.743, abs=0.001)
    assert (found.num_items, found.num_labels, found.num_annotators) == (11, 40, 4)
    # two items of 3 pairs, eight of 6, one of 1; 3 differ in two of them, all 6 in one
    assert found.agreement == pytest.approx(100 * (55 - 3 - 3 - 6) / 55)


def test_labels_that_nobody_else_gave_say_nothing(tmp_path: Path) -> None:
    """Absent, not 100; where all say one thing, chance cannot be told apart."""
    rows = [{"item": i, "annotator": "a", "label": "x"} for i in range(3)]
    alone = agreement(write(tmp_path / "labels.jsonl", rows))
    assert (alone.agreement, alone.alpha, alone.num_items) == (None, None, 0)
    rows += [{"item": i, "annotator": "b", "label": "x"} for i in range(3)]
    found = agreement(write(tmp_path / "labels.jsonl", rows))
    assert (found.agreement, found.alpha) == (100.0, None)


def test_a_line_that_is_no_label_is_named(tmp_path: Path) -> None:
    """With its number."""
    path = write(tmp_path / "labels.jsonl", [{"item": 1, "annotator": "a", "label": "x"}, "", "{}"])
    with pytest.raises(ValidationError, match="line 3"):
        agreement(path)
    with pytest.raises(ValidationError, match="cannot be read"):
        agreement(tmp_path / "absent.jsonl")


def test_accuracy_weighs_tokens_and_the_interval_rows() -> None:
    """Twice as many rows of the same kind make it narrower by the root of two; equal gains leave no doubt."""
    base = [Tokens(10, 2), Tokens(10, 4), Tokens(20, 5), Tokens(0, 0)]
    adapter = [Tokens(10, 6), Tokens(10, 5), Tokens(20, 12), Tokens(0, 0)]
    assert accuracy(base) == pytest.approx(27.5)
    assert accuracy(base[3:]) is None
    low, high = interval(base, adapter) or (0.0, 0.0)
    assert (low + high) / 2 == pytest.approx(30.0)
    # by hand: gains 4, 1, 7 on 10, 10, 20 tokens; residuals 1, -2, 1; sqrt(3/2 * 6) / 40 = 0.075
    assert (high - low) / 2 == pytest.approx(100 * 1.96 * 0.075)
    more = interval(base * 100, adapter * 100) or (0.0, 0.0)
    assert (more[1] - more[0]) / (high - low) == pytest.approx((2 / 299) ** 0.5)
    even = [Tokens(10, row.num_correct + 1) for row in base[:2]]
    assert interval(base[:2], even) == pytest.approx((10.0, 10.0))


def test_rows_that_do_not_line_up_have_no_interval() -> None:
    """Another program measured the baseline, or one row is all there is."""
    rows = [Tokens(10, 2), Tokens(10, 4)]
    assert interval((), rows) is None
    assert interval(rows, [Tokens(10, 2), Tokens(11, 4)]) is None
    assert interval(rows[:1], rows[:1]) is None
