"""Forgetting: what somebody's data is, what learned from it, and taking it out for ever.

The files that trainings read go first, then rows, then what the database's own files still hold of it.
Adapters are not unlearned: the answer names those that saw it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio.to_thread
from msgspec import Struct

from honed.errors import StoreError
from honed.keeping import run_files
from honed.ports import Extent, Keeping, Whose

_OUT_OF_REACH: Final = (
    "spools of clients and their *.broken files, the inbox's files, backups and exports keep what they hold",
    "adapters are not unlearned: train again without the data and take theirs out of service",
)


Forms = Callable[[str], Sequence[str]]


def as_it_is(name: str) -> tuple[str, ...]:
    """The form of ids where nothing is ever redacted."""
    return (name,)


class Forgotten(Struct, frozen=True, kw_only=True):
    """What is forgotten, or would be."""

    kind: str
    name: str
    done: bool
    """False: only looked at."""
    records: int
    episodes: int
    attempts: int
    """Groups of records, open ones included."""
    runs: tuple[str, ...]
    """Trainings whose files held rows of it; those rows are gone, and with them the run's log."""
    adapters: dict[str, int]
    """Adapters that learned from it, and from how many of its episodes."""
    scrubbed: bool = True
    """Whether no byte of it is left in the database's files, but what `out_of_reach` says."""
    out_of_reach: tuple[str, ...] = _OUT_OF_REACH
    unsearched: str | None = None
    """Captured calls that may hold more of it and were not searched; None where there are none."""


class Forgetting:
    """Forgets in one data folder.

    Args:
        keeping: takes rows out of its store.
        runs_dir: where the files of its trainings are.
        forms: under which ids something may be stored that is asked for by one.
    """

    def __init__(self, keeping: Keeping, *, runs_dir: Path, forms: Forms = as_it_is) -> None:
        self._keeping = keeping
        self._forms = forms
        self._runs_dir = runs_dir

    async def look(self, whose: Whose) -> Forgotten:
        """What would go."""
        return await self._told(whose, done=False)

    async def forget(self, whose: Whose) -> Forgotten:
        """Forget it; nothing may train meanwhile. What was interrupted can be done again.

        Raises:
            StoreError: the store or a file of a run cannot be written.
        """
        return await self._told(whose, done=True)

    async def _find(self, whose: Whose) -> Extent:
        """Whatever is stored under one of the forms of the name."""
        found = [
            await self._keeping.find(Whose(whose.kind, name)) for name in self._forms(whose.name)
        ]
        return Extent(*(frozenset().union(*parts) for parts in zip(*found, strict=True)))

    async def _told(self, whose: Whose, *, done: bool) -> Forgotten:
        extent = await self._find(whose)
        learned = await self._keeping.learned_from(sorted(extent.episode_ids))
        work = run_files.take_out if done else run_files.runs_with
        scrubbed = True
        try:
            # the files first: once the rows are gone, nothing says whose lines they are
            runs = await anyio.to_thread.run_sync(work, self._runs_dir, extent.episode_ids)
        except OSError as error:
            raise StoreError(
                f"a file of a run cannot be cleared: {error.filename}: {error.strerror}",
                advice="nothing is deleted from the store yet; see to the file and forget again",
            ) from error
        if done and extent:
            await self._keeping.remove(extent, forever=True)
        if done:
            scrubbed = await self._keeping.scrub()
        return Forgotten(
            kind=whose.kind,
            name=whose.name,
            done=done,
            records=len(extent.record_ids),
            episodes=len(extent.episode_ids),
            attempts=len(extent.group_ids),
            runs=tuple(runs),
            adapters={model_id: len(ids) for model_id, ids in learned.items()},
            scrubbed=scrubbed,
            out_of_reach=_OUT_OF_REACH + self._keeping.out_of_reach,
        )
