"""The files that trainings read: rows of episodes that must go, taken out again.

A data file and its metadata have one line each per row, in the same order, and the metadata names the
episodes: the one that is learned, the one that is rejected, the one that says nearly the same. A row goes when
any of them is to go, and so does a row of which nobody can tell whose it is: its line cannot be read or names
no episode. A pair of files that does not fit together is deleted whole.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import msgspec

from honed.domain.run_files import CHECKPOINTS, PLAN_FILE

_META: Final = ".meta.jsonl"
_LOGS: Final = "*.log"
_NAMING: Final = ("episode_id", "rejected_episode_id")


_decode = msgspec.json.Decoder(dict[str, object]).decode


def take_out(runs_dir: Path, episode_ids: Collection[str]) -> list[str]:
    """Take the rows of these episodes out of every run's files; the runs that had some.

    Without episodes nothing is touched. The worker's log of such a run goes as well: it may quote a row.
    Raises OSError.
    """
    wanted = frozenset(episode_ids)
    if not wanted:
        return []
    return [folder.name for folder in _folders(runs_dir) if _clear(folder, wanted)]


def runs_with(runs_dir: Path, episode_ids: Collection[str]) -> list[str]:
    """The runs whose files hold rows of these episodes."""
    wanted = frozenset(episode_ids)
    if not wanted:
        return []
    return [
        folder.name
        for folder in _folders(runs_dir)
        if any(_lines_of(path, wanted) for path in folder.glob(f"*{_META}"))
    ]


def _clear(folder: Path, wanted: frozenset[str]) -> bool:
    changed = False
    for metadata in sorted(folder.glob(f"*{_META}")):
        gone = _lines_of(metadata, wanted)
        if not gone:
            continue
        changed = True
        data = metadata.with_name(metadata.name.removesuffix(_META) + ".jsonl")
        if not data.exists() or _count(data) != _count(metadata):
            data.unlink(missing_ok=True)
            metadata.unlink()
            continue
        for path in (data, metadata):
            _rewrite(path, gone)
    if changed:
        # what an unfinished run would go on from has seen the row, and its plan names it
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        for path in (*folder.glob(_LOGS), folder / PLAN_FILE):
            path.unlink(missing_ok=True)
    return changed


def _lines_of(metadata: Path, wanted: frozenset[str]) -> set[int]:
    """The numbers of the lines whose rows must go."""
    with metadata.open("rb") as file:
        return {number for number, line in enumerate(file) if _must_go(line, wanted)}


def _must_go(line: bytes, wanted: frozenset[str]) -> bool:
    try:
        told = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
    if not any(isinstance(told.get(field), str) for field in _NAMING):
        return True
    # whatever field names it, also one that an older or a newer version writes
    return any(isinstance(value, str) and value in wanted for value in told.values())


def _rewrite(path: Path, without: set[int]) -> None:
    aside = path.with_name(f".{path.name}")
    with path.open("rb") as old, aside.open("wb") as new:
        new.writelines(line for number, line in enumerate(old) if number not in without)
        new.flush()
        os.fsync(new.fileno())
    aside.replace(path)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _folders(runs_dir: Path) -> Iterator[Path]:
    """Those of the runs, and the one that trainings by a script share, beside them."""
    if runs_dir.is_dir():
        yield from sorted(path for path in runs_dir.iterdir() if path.is_dir())
    if (by_script := runs_dir.parent / "training").is_dir():
        yield by_script
