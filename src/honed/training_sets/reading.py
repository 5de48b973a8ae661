"""Reads rows of any known form: what each becomes, and what is wrong with those that are refused."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from honed.training_sets.formats import Format, StoredEpisode, format_of
from honed.training_sets.row_files import BadRow, Row, RowFile
from honed.training_sets.trajectories import ImportedTrajectory, events_of


class Reading(NamedTuple):
    """A good row."""

    line: int
    """As `BadRow.line`."""
    format: str
    trajectories: tuple[ImportedTrajectory, ...] = ()
    episode: StoredEpisode | None = None
    """Of a row in honed's own form, which has no trajectories."""


def read_rows(rows: RowFile, format: Format | None = None) -> Iterator[Reading | BadRow]:
    """What each row says, in order; the form is found row by row unless it is given.

    Raises:
        SourceError: the file cannot be read.
    """
    for row in rows:
        yield row if isinstance(row, BadRow) else _read(row, format)


def _read(row: Row, format: Format | None) -> Reading | BadRow:
    try:
        form = format_of(row.text, format)
        told = form.read(row.text)
        if isinstance(told, StoredEpisode):
            return Reading(row.line, form.name, episode=told)
        return Reading(row.line, form.name, tuple(map(events_of, told)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return BadRow(row.line, str(error))
