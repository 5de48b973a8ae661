"""Which rows a run does not learn from, so that they can tell when it has learned enough."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct

from honed.errors import TrainingError

MIN_EXAMPLES: Final = 20
"""With fewer conversations all are learned from: two of ten tell nothing."""


class Learned(Protocol):
    """A row of any method."""

    @property
    def example(self) -> int:
        """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens that count."""


RowT_co = TypeVar("RowT_co", bound=Learned, covariant=True)


class Split(NamedTuple, Generic[RowT_co]):
    """The rows that a run learns from, and those that it is watched with."""

    train: Sequence[RowT_co]
    validation: Sequence[RowT_co] = ()


class _Metadata(Struct):
    group: str | None = None


def split_rows(
    rows: Sequence[RowT_co], groups: Sequence[str], *, fraction: float, seed: int
) -> Split[RowT_co]:
    """Draw about `fraction` of the conversations, whole groups, the same ones for the same seed.

    Args:
        rows: in their order.
        groups: of each line of the data file.
        fraction: 0 learns from all.
        seed: of the draw.
    """
    sizes = Counter(groups[example] for example in {row.example for row in rows})
    wanted = round(fraction * sizes.total())
    if sizes.total() < MIN_EXAMPLES or not wanted or len(sizes) < 2:
        return Split(rows)
    drawn: set[str] = set()
    num = 0
    for group in sorted(sizes, key=lambda group: _draw(seed, group)):
        if num + sizes[group] <= wanted:
            drawn.add(group)
            num += sizes[group]
    return Split(
        [row for row in rows if groups[row.example] not in drawn],
        [row for row in rows if groups[row.example] in drawn],
    )


def read_groups(path: Path | None, num_examples: int) -> list[str]:
    """The group of each line of a data file by its metadata; each line is its own without any.

    Raises:
        TrainingError: the metadata cannot be read, or are of another file.
    """
    if path is None:
        return [str(number) for number in range(num_examples)]
    try:
        lines = path.read_bytes().splitlines()
        told = [msgspec.json.decode(line, type=_Metadata).group for line in lines]
    except (OSError, msgspec.DecodeError) as error:
        raise TrainingError(f"the metadata {path} cannot be read: {error}") from error
    if len(told) != num_examples:
        raise TrainingError(
            f"{path} has {len(told)} lines, expected {num_examples} as in the data file beside it"
        )
    return [group or f"line {number}" for number, group in enumerate(told)]


def _draw(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{group}".encode(), digest_size=8).digest()
