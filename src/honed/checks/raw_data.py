"""What can be counted of raw rows and of labels: sources, kinds, coverage, agreement."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import msgspec
from msgspec import Struct

from honed.checks.dataset_rows import DatasetRow, read_rows
from honed.checks.measures import Annotations, RawData, Sources
from honed.errors import ValidationError


def count_raw(
    files: Iterable[Path], *, expected: Sequence[str] = (), text_field: str = "text"
) -> tuple[Sources, RawData]:
    """Count rows by `source` and by `category`; lines that are no rows do not count.

    Args:
        files: JSON lines.
        expected: the categories that the data should cover.
        text_field: of preformatted rows.

    Raises:
        ValidationError: a file cannot be read.
    """
    sources: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    total = 0
    for row in _rows(files, text_field):
        total += 1
        sources.update([row.source] if row.source else ())
        categories.update([row.category] if row.category else ())
    missing = tuple(name for name in dict.fromkeys(expected) if name not in categories)
    named = len(dict.fromkeys(expected))
    return (
        Sources(source_count=len(sources), sources=dict(sources), untold=total - sources.total()),
        RawData(
            samples=total,
            diversity=len(categories),
            coverage=100 * (named - len(missing)) / named if named else None,
            categories=dict(categories),
            missing=missing,
        ),
    )


def _rows(files: Iterable[Path], text_field: str) -> Iterator[DatasetRow]:
    for path in files:
        for each in read_rows(path, text_field=text_field):
            if isinstance(each, DatasetRow):
                yield each


class _Label(Struct, frozen=True):
    item: str | int
    annotator: str | int
    label: str | int | bool


def agreement(path: Path) -> Annotations:
    """How far annotators agree, from lines `{"item", "annotator", "label"}`.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C, nominal data with gaps.

    Raises:
        ValidationError: the file cannot be read; the message names the line.
    """
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for each in _labels(path):
        labels[str(each.item)][str(each.annotator)] = str(each.label)
    units = [list(unit.values()) for unit in labels.values() if len(unit) > 1]
    pairs = [one == other for unit in units for one, other in combinations(unit, 2)]
    return Annotations(
        agreement=100 * sum(pairs) / len(pairs) if pairs else None,
        alpha=_alpha(units),
        num_items=len(units),
        num_labels=sum(map(len, units)),
        num_annotators=len({name for unit in labels.values() for name in unit}),
    )


def _labels(path: Path) -> Iterator[_Label]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=_Label)
        except msgspec.DecodeError as error:
            raise ValidationError(
                f"{path}, line {number}: {error}",
                advice='each line is {"item": ..., "annotator": ..., "label": ...}',
            ) from error


def _alpha(units: list[list[str]]) -> float | None:
    """1 - observed disagreement / that by chance; a unit of m labels counts each pair 1/(m - 1) times."""
    totals = Counter(label for unit in units for label in unit)
    n = totals.total()
    by_chance = n * n - sum(count * count for count in totals.values())
    if by_chance == 0:
        return None
    observed = sum(
        (len(unit) ** 2 - sum(c * c for c in Counter(unit).values())) / (len(unit) - 1)
        for unit in units
    )
    return 1 - (n - 1) * observed / by_chance
