"""A base model that stays in memory, and copies of it that share its weights.

Kept by a process that never computes and forked for each run (worker/warm.py): whatever a run does to a copy, its
writes are its own, and the next run finds what was read from the files.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

Stamps = tuple[tuple[str, int, int], ...]
"""Name, size and time of each file of a folder."""


class _Kept(NamedTuple):
    folder: Path
    stamps: Stamps
    model: Any


_kept: _Kept | None = None


def keep(folder: Path) -> None:
    """Have the model in `folder` in memory as it is now, float32 on the CPU, in the place of any other.

    Raises:
        TrainingError: the weights cannot be loaded.
    """
    global _kept
    from honed.worker.base_model import load_model

    now = _stamps(folder)
    if _kept is not None and (_kept.folder, _kept.stamps) == (folder, now):
        return
    _kept = None  # before the next one is loaded: there may be no room for both
    _kept = _Kept(folder, now, load_model(folder, "cpu"))


def copy_of_kept(folder: Path) -> Any | None:
    """A model with modules of its own and the kept weights; None when another model is kept, or the files have changed.

    One copy at a time may be trained, and only adapters on it.
    """
    if _kept is None or (_kept.folder, _kept.stamps) != (folder, _stamps(folder)):
        return None
    shared = {id(weight): weight for weight in _kept.model.parameters()}
    return copy.deepcopy(_kept.model, shared)


def _stamps(folder: Path) -> Stamps:
    found = ((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in found))
