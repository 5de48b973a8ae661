"""What a run leaves in its folder so that it can go on after its daemon has ended, and whether it still may.

A run goes on under its own id, with the files that it was begun with, from its worker's last complete checkpoint. It
does not when those files are no longer what they were (somebody has been forgotten), when there is no checkpoint, or
when it was gone on with and has come no further.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from honed.adapter_files import file_digest
from honed.domain.job import TrainSettings
from honed.domain.run_files import CHECKPOINTS, PLAN_FILE, SEAL
from honed.ports import TrainingSet

TRIES: Final = 3
"""How often a run may go on from the same step: one that ends its daemon each time must not do so for ever."""


class Plan(Struct, frozen=True, kw_only=True):
    """What a run was begun with."""

    model_id: str
    base_model: str
    settings: TrainSettings
    """A config that has changed meanwhile is for the next run."""
    training_set: TrainingSet
    against_base: bool
    counts: bool
    start_path: str | None = None
    """The adapter that it began with, whatever has come into service since."""
    step: int = 0
    """From which it went on last."""
    tries: int = 0
    """How often it went on from there."""


def write_plan(folder: Path, plan: Plan) -> None:
    """Write it, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    aside = folder / f".{PLAN_FILE}"
    aside.write_bytes(msgspec.json.encode(plan, enc_hook=str))
    aside.replace(folder / PLAN_FILE)


def read_plan(folder: Path) -> Plan | None:
    """The plan of a run that may go on; None when it may not."""
    try:
        plan = msgspec.json.decode((folder / PLAN_FILE).read_bytes(), type=Plan, dec_hook=_path)
        data = plan.training_set
        is_same = file_digest(data.data_path) == data.data_digest and (
            data.dataset is None or file_digest(data.held_out_path) == data.dataset.held_out_digest
        )
    except (OSError, msgspec.DecodeError):
        return None
    step = _newest_step(folder)
    if step is None or not is_same:
        return None
    tries = plan.tries + 1 if step == plan.step else 1
    return msgspec.structs.replace(plan, step=step, tries=tries) if tries <= TRIES else None


def clear(folder: Path) -> None:
    """Remove what only a run that goes on needs."""
    with contextlib.suppress(OSError):
        (folder / PLAN_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint; None without any."""
    found = [path.parent.name for path in (folder / CHECKPOINTS).glob(f"*/*/{SEAL}")]
    steps = [int(number) for name in found if (number := name.rpartition("-")[2]).isdecimal()]
    return max(steps, default=None)


def _path(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path else value
