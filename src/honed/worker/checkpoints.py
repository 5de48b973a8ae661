"""Checkpoints of a run: complete or not counted, so that a run that was cut off goes on from the last complete one.

transformers writes a checkpoint file by file into `checkpoint-STEP`. Its seal, a list of its files with their digests,
comes last and is synced; a folder without it, or that does not match it, is of a run that was killed meanwhile, or was
damaged, and is removed.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from transformers import TrainerCallback

from honed.adapter_files import file_digest
from honed.domain.run_files import SEAL
from honed.worker.files import sync_folder, write_file

_PREFIX: Final = "checkpoint-"
KEPT: Final = 2
"""The last ones; the best one stays beside them."""
SECONDS_MAX: Final = 300.0
"""So much work is lost at most when a run is cut off."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest(self, on_removed: Callable[[Path], None] = lambda path: None) -> Path | None:
        """The last complete checkpoint; incomplete ones are removed on the way to it. None without any."""
        for path in sorted(self.folder.glob(f"{_PREFIX}*"), key=step_of, reverse=True):
            if is_complete(path):
                return path
            shutil.rmtree(path)
            on_removed(path)
        return None

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written; -1 of what is none."""
    number = path.name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else -1


def is_complete(path: Path) -> bool:
    """Whether a checkpoint holds just what its seal says."""
    try:
        told = msgspec.json.decode((path / SEAL).read_bytes(), type=dict[str, str])
        return told == _digests(path)
    except (OSError, msgspec.DecodeError):
        return False


def seal(path: Path) -> None:
    """Sync a checkpoint, then say that it is complete."""
    sync_folder(path)
    write_file(path / SEAL, msgspec.json.encode(_digests(path)))


def is_evaluated_next(args: Any, state: Any) -> bool:
    """Whether an epoch ends with this step, and an evaluation and a checkpoint follow.

    One before the evaluation would be gone on from without it: other random numbers, and a chance to stop missed.
    """
    ends_epoch = state.epoch == int(state.epoch) or state.global_step >= state.max_steps
    return bool(ends_epoch and args.eval_strategy != "no")


def _digests(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != SEAL)
    found = {}
    for file in files:
        found[str(file.relative_to(path))] = file_digest(file)
    return found


class Saving(TrainerCallback):  # type: ignore[misc]
    """Has a checkpoint written every so many steps or minutes, and seals each one."""

    def __init__(self, every_steps: int, *, every_s: float = SECONDS_MAX) -> None:
        self._every_steps = every_steps
        self._every_s = every_s
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Ask for one when it is time."""
        is_late = time.monotonic() - self._saved_at >= self._every_s
        is_due = is_late or state.global_step % self._every_steps == 0
        if is_due and not is_evaluated_next(args, state):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Seal what was just written."""
        seal(Path(args.output_dir) / f"{_PREFIX}{state.global_step}")
        self._saved_at = time.monotonic()
