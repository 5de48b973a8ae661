"""Is a data set fit to train and to judge by: rows, duplicates, leakage, lengths, shares of the splits.

What is an error makes the exit status 1; a warning says what someone should look at. Rows are read once and not kept:
of each stay two digests, its groups and its length.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from honed.checks.dataset_rows import FORMAT_STEP, DatasetRow, Fault, read_rows
from honed.checks.files import digest_of
from honed.checks.run_plan import SPLITS
from honed.domain.times import now_ms

Level = Literal["error", "warning"]

TRAIN_SHARE: Final = (0.70, 0.90)
VALIDATION_SHARE: Final = (0.05, 0.20)
TEST_ROWS_MIN: Final = 50
"""A share measured on 50 rows is known to within 14 points (95 %, normal approximation at one half)."""
SHORTEST: Final = 10
"""Characters; what is shorter hardly holds a question and its answer."""
CHARACTERS_PER_TOKEN: Final = 4
"""Rule of thumb for English and code: a row longer than `max_length` times this is probably cut."""
_LINES: Final = 5
"""How many lines of a fault are named; all are counted."""


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was found, with how often."""

    level: Level
    kind: str
    """`parse`, `fields`, `split`, `duplicates`, `leakage`, `same_question`, `length`, `test_size`, `language`,
    `ratio`.
    """
    text: str
    advice: str
    count: int = 1
    file: str | None = None
    lines: tuple[int, ...] = ()
    """The first of them, from 1."""


class Split(Struct, frozen=True, kw_only=True):
    """One file as it was measured."""

    path: str
    digest: str
    num_rows: int
    """Lines that are rows."""
    share: float
    """Of all rows of all files."""


class DatasetReport(Struct, frozen=True, kw_only=True):
    """What `honed validate` found; with `--splits` it is `metrics/dataset.json`."""

    checked_at: int
    """Unix milliseconds, UTC."""
    splits: dict[str, Split]
    """By name: `train`, `validation`, `test`; else by the file's."""
    split_count: int
    """How many of the three splits have a row."""
    samples: int
    errors: int
    """Lines that are no row."""
    duplicates: int
    """Rows that say what a row before them in the same file says."""
    leakage: int
    """Rows whose content, group or task is in an earlier split too."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """No finding is an error."""
        return not any(finding.level == "error" for finding in self.findings)


@dataclass(slots=True)
class _File:
    """What stays of one file."""

    name: str
    path: Path
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    rows: list[DatasetRow] = field(default_factory=list)

    @property
    def is_test(self) -> bool:
        return self.name == "test"


def validate(
    files: Mapping[str, Path], *, max_length: int = 2048, text_field: str = "text"
) -> DatasetReport:
    """Read all files and compare them.

    Args:
        files: by name. Those named train, validation and test are compared: what is in an earlier one must not be in a
            later one.
        max_length: tokens that a row may hold in training.
        text_field: of preformatted rows.

    Raises:
        ValidationError: a file cannot be read.
    """
    read = [_read(name, path, text_field) for name, path in files.items()]
    total = sum(len(each.rows) for each in read)
    leaked, findings = _leakage([each for each in read if each.name in SPLITS])
    repeated = {each.name: list(_duplicates(each.rows)) for each in read}
    for each in read:
        findings += _of_file(each, repeated[each.name], max_length)
    findings += _of_splits(read, total)
    return DatasetReport(
        checked_at=now_ms(),
        splits={
            each.name: Split(
                path=str(each.path),
                digest=digest_of(each.path),
                num_rows=len(each.rows),
                share=len(each.rows) / max(total, 1),
            )
            for each in read
        },
        split_count=sum(each.name in SPLITS and bool(each.rows) for each in read),
        samples=total,
        errors=sum(len(faults) for each in read for faults in each.faults.values()),
        duplicates=sum(map(len, repeated.values())),
        leakage=leaked,
        findings=tuple(sorted(findings, key=lambda finding: finding.level)),
    )


def _read(name: str, path: Path, text_field: str) -> _File:
    found = _File(name, path)
    for each in read_rows(path, text_field=text_field):
        if isinstance(each, Fault):
            found.faults[each.kind].append(each)
        else:
            found.rows.append(each.without_turns())
    return found


def _duplicates(rows: list[DatasetRow]) -> Iterator[int]:
    seen: set[str] = set()
    for row in rows:
        if row.digest in seen:
            yield row.line
        seen.add(row.digest)


def _leakage(files: list[_File]) -> tuple[int, list[Finding]]:
    """Rows of each file that an earlier one has, by content and by group; and questions that both ask."""
    findings: list[Finding] = []
    num_leaked = 0
    digests: dict[str, str] = {}
    groups: dict[str, str] = {}
    openings: dict[str, str] = {}
    for each in files:
        by_content = _seen_in(digests, ((row.line, [row.digest]) for row in each.rows))
        by_group = _seen_in(groups, ((row.line, row.groups) for row in each.rows))
        asked = _seen_in(openings, ((row.line, [row.opening]) for row in each.rows))
        num_leaked += len(by_content.keys() | by_group.keys())
        for found, what in ((by_content, "content"), (by_group, "group or task")):
            if found:
                findings.append(_leak(each, found, what))
        if only_asked := {
            n: w for n, w in asked.items() if n not in by_content.keys() | by_group.keys()
        }:
            findings.append(_same_question(each, only_asked))
        for row in each.rows:
            digests.setdefault(row.digest, each.name)
            openings.setdefault(row.opening, each.name)
            for group in row.groups:
                groups.setdefault(group, each.name)
    return num_leaked, findings


def _seen_in(known: Mapping[str, str], rows: Iterator[tuple[int, object]]) -> dict[int, str]:
    """By line, the earlier file that has one of its keys."""
    found = {}
    for line, keys in rows:
        for key in keys:  # type: ignore[attr-defined]
            if key in known:
                found[line] = known[key]
    return found


def _leak(file: _File, found: Mapping[int, str], what: str) -> Finding:
    where = ", ".join(sorted(set(found.values())))
    return Finding(
        level="error",
        kind="leakage",
        text=f"{len(found)} rows of {file.name} have a {what} that {where} has too",
        advice="split by whole groups and tasks, and take copies out",
        count=len(found),
        file=str(file.path),
        lines=tuple(found)[:_LINES],
    )


def _same_question(file: _File, found: Mapping[int, str]) -> Finding:
    return Finding(
        level="warning",
        kind="same_question",
        text=f"{len(found)} rows of {file.name} ask what rows of {', '.join(sorted(set(found.values())))} ask",
        advice="an answer that was learned by heart counts here as one that was understood",
        count=len(found),
        file=str(file.path),
        lines=tuple(found)[:_LINES],
    )


def _of_file(file: _File, repeated: list[int], max_length: int) -> Iterator[Finding]:
    for kind, faults in file.faults.items():
        yield Finding(
            level="error",
            kind=kind,
            text=f"{len(faults)} lines of {file.name} cannot be read; line {faults[0].line}: {faults[0].text}",
            advice=FORMAT_STEP,
            count=len(faults),
            file=str(file.path),
            lines=tuple(fault.line for fault in faults[:_LINES]),
        )
    if not file.rows:
        yield _one(file, "error", "split", f"{file.name} has no row", "fill it, or leave it out")
    if repeated:
        yield Finding(
            level="warning",
            kind="duplicates",
            text=f"{len(repeated)} rows of {file.name} repeat earlier ones",
            advice="take them out: a row that is there twice counts twice",
            count=len(repeated),
            file=str(file.path),
            lines=tuple(repeated[:_LINES]),
        )
    yield from _lengths(file, max_length)
    untagged = [row.line for row in file.rows if row.language is None]
    if untagged:
        yield Finding(
            level="warning",
            kind="language",
            text=f"{len(untagged)} of {len(file.rows)} rows of {file.name} have no language tag",
            advice='add "language" to the rows (or their metadata), so that results can be told by language',
            count=len(untagged),
            file=str(file.path),
            lines=tuple(untagged[:_LINES]),
        )


def _lengths(file: _File, max_length: int) -> Iterator[Finding]:
    longest = max_length * CHARACTERS_PER_TOKEN
    for what, lines, advice in (
        (
            f"shorter than {SHORTEST} characters",
            [row.line for row in file.rows if row.num_characters < SHORTEST],
            "look whether something was cut off",
        ),
        (
            f"longer than {longest} characters",
            [row.line for row in file.rows if row.num_characters > longest],
            f"they are probably cut at {max_length} tokens: raise max_seq_length, or split them",
        ),
    ):
        if lines:
            yield Finding(
                level="warning",
                kind="length",
                text=f"{len(lines)} rows of {file.name} are {what}",
                advice=advice,
                count=len(lines),
                file=str(file.path),
                lines=tuple(lines[:_LINES]),
            )


def _of_splits(files: list[_File], total: int) -> Iterator[Finding]:
    sizes = Counter({each.name: len(each.rows) for each in files})
    for each in files:
        if each.is_test and 0 < len(each.rows) < TEST_ROWS_MIN:
            yield _one(
                each,
                "warning",
                "test_size",
                f"the test set has {len(each.rows)} rows, fewer than {TEST_ROWS_MIN}",
                "hold more back: what is measured on so few is known to more than 14 points only",
            )
    if not {"train", "validation"} <= sizes.keys() or not total:
        return
    for name, (least, most) in (("train", TRAIN_SHARE), ("validation", VALIDATION_SHARE)):
        share = sizes[name] / total
        if not least <= share <= most:
            yield Finding(
                level="warning",
                kind="ratio",
                text=f"{name} has {share:.0%} of the rows, expected {least:.0%} to {most:.0%}",
                advice="move rows between the splits, whole groups and tasks at a time",
            )


def _one(file: _File, level: Level, kind: str, text: str, advice: str) -> Finding:
    return Finding(level=level, kind=kind, text=text, advice=advice, file=str(file.path))
