"""Whether a run goes on, begins anew, or may not: by what a former one has left in `training.output_dir`."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from honed.domain.run_files import SEAL
from honed.domain.times import iso_utc
from honed.domain.train_settings import TrainSettings
from honed.errors import BusyError, ValidationError

WORK: Final = "run"
"""Folder in `output_dir` of what the run works with."""
_IDENTITY: Final = "identity.json"
_MAY_DIFFER: Final = frozenset({"logging_steps", "save_steps", "report_to", "threads", "fixed"})
"""Settings that change no step; others are of another run."""


@contextlib.contextmanager
def alone(output_dir: Path) -> Iterator[Path]:
    """The folder that the run works in, while no other run has it.

    Raises:
        BusyError: another one has.
        ValidationError: it cannot be made.
    """
    another = "name another folder in training.output_dir"
    work = output_dir / WORK
    with _locked(work / "lock", f"another run works in {output_dir}", another):
        yield work


@contextlib.contextmanager
def telling_alone(log_path: Path) -> Iterator[None]:
    """Write status and log in the body, while no other run does so there.

    Raises:
        BusyError: another one does.
        ValidationError: the log cannot be made.
    """
    folder = log_path.parent
    told = f"another run writes its log into {folder}, and its status beside it"
    with _locked(log_path, told, "start this one in another folder"):
        yield


@contextlib.contextmanager
def _locked(path: Path, told: str, another: str) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    except OSError as error:
        raise ValidationError(
            f"{path.parent} cannot be made: {error.strerror}", advice=another
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(told, advice=f"wait for it, or {another}") from None
        yield


def identity(settings: TrainSettings, **others: str | None) -> dict[str, Any]:
    """What makes two runs the same run, as it is read back from a file."""
    told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return {name: value for name, value in told.items() if name not in _MAY_DIFFER} | others


def begin(output_dir: Path, wanted: dict[str, Any], *, resume: bool, fresh: bool) -> bool:
    """Make the folder ready; returns whether the run goes on from a checkpoint.

    Args:
        output_dir: of the run.
        wanted: its identity.
        resume: go on with the former run; without a checkpoint it begins anew.
        fresh: begin anew, even if a former run was cut off.

    Raises:
        ValidationError: the former run was another one, or was cut off and nobody said what becomes of it; or the
            checkpoints there are somebody else's.
    """
    path = output_dir / WORK / _IDENTITY
    former = _read(path)
    if former is None and (foreign := _checkpoints(output_dir)):
        raise ValidationError(
            f"{foreign[0]} was not written by a run of honed, and would be lost: expected a folder of its own",
            advice="name another folder in training.output_dir, or move what is there",
        )
    has_checkpoint = checkpoint_at(output_dir) is not None
    if resume and has_checkpoint:
        differing = [
            name
            for name in wanted.keys() | (former or {}).keys()
            if wanted.get(name) != (former or {}).get(name)
        ]
        if differing:
            raise ValidationError(
                f"the run in {output_dir} was begun otherwise: {', '.join(sorted(differing))} changed",
                advice="put the config and the data back, or begin anew with --fresh",
            )
        return True
    if former is not None and has_checkpoint and not fresh and not _is_finished(output_dir):
        raise ValidationError(
            f"{output_dir} holds checkpoints of a run that was cut off",
            advice="go on with --resume, or begin anew with --fresh",
        )
    try:
        for place in _checkpoints(output_dir):
            shutil.rmtree(place)
        path.write_bytes(msgspec.json.encode(wanted))
    except OSError as error:
        raise ValidationError(
            f"{output_dir} cannot be made ready: {error.strerror}",
            advice="free some space there, or name another folder in training.output_dir",
        ) from error
    return False


def _checkpoints(output_dir: Path) -> list[Path]:
    return sorted([*output_dir.glob("checkpoint-*"), *output_dir.glob("smaller-*")])


def checkpoint_at(output_dir: Path) -> str | None:
    """When the last checkpoint was complete; None without any."""
    found = []
    for pattern in (f"checkpoint-*/{SEAL}", f"smaller-*/checkpoint-*/{SEAL}"):
        for seal in output_dir.glob(pattern):
            with contextlib.suppress(OSError):  # old ones are removed meanwhile
                found.append(seal.stat().st_mtime)
    return iso_utc(datetime.fromtimestamp(max(found), UTC)) if found else None


def _is_finished(output_dir: Path) -> bool:
    """Whether the worker's last result says that all was done."""
    told = _read(output_dir / WORK / "result.json")
    return told is not None and told.get("result") != "failed"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None
