"""What a run leaves in its folder, read while it is written: progress, the worker's log, the settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from honed.adapter_files import MANIFEST_FILE
from honed.domain.job import Progress, TrainJob, parse_job
from honed.domain.run import Run
from honed.domain.trained_model import TrainedModel
from honed.errors import NotFoundError
from honed.stores import SqlStore

PROGRESS = "progress.jsonl"
WORKER_LOG = "worker.log"
_decode = msgspec.json.Decoder(Progress).decode


class Curve(NamedTuple):
    """Losses over the steps of a run."""

    loss: tuple[tuple[int, float], ...]
    validation_loss: tuple[tuple[int, float], ...]


class Growing:
    """A file of lines that somebody else appends to; it may come later, and begin anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self, *, all: bool = False) -> list[bytes]:
        """The whole lines that have come since the last call; with `all` also the last, unfinished one."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                found = file.read()
        except FileNotFoundError:
            return []
        end = len(found) if all else found.rfind(b"\n") + 1
        self._offset += end
        return found[:end].splitlines()


async def find_run(store: SqlStore, scenario: str, name: str | None) -> tuple[Run, str]:
    """A run by its id or by its adapter's; without a name the newest that began. And the name of its folder.

    Raises:
        NotFoundError: there is none.
    """
    runs = await store.list_runs(scenario, limit=1_000)
    for run in runs:
        is_it = run.state != "skipped" if name is None else name in (run.id, run.model_id)
        if is_it:
            return run, run.id
    if name is None:
        raise NotFoundError(
            f"{scenario} has no run yet", advice="`honed why` says what it waits for"
        )
    raise NotFoundError(
        f"{scenario} has no run {name}", advice="`honed runs` lists them, `honed adapters` theirs"
    )


def progress_of(folder: Path) -> Iterator[Progress]:
    """What the run has reported; lines of another version are passed over."""
    for line in Growing(folder / PROGRESS).lines():
        try:
            yield _decode(line)
        except msgspec.DecodeError:
            continue


def notes_of(folder: Path) -> list[str]:
    """What the operator was told in the run, once each, in order."""
    return list(dict.fromkeys(each.note for each in progress_of(folder) if each.note))


def curve_of(folder: Path) -> Curve:
    """The losses that the run has reported; of a step that was done again, the last one."""
    loss: dict[int, float] = {}
    validation: dict[int, float] = {}
    step = 0
    for each in progress_of(folder):
        step = step if each.step is None else each.step
        if each.loss is not None:
            loss[step] = each.loss
        if each.validation_loss is not None:
            validation[step] = each.validation_loss
    return Curve(tuple(sorted(loss.items())), tuple(sorted(validation.items())))


def settings_of(folder: Path, model: TrainedModel | None) -> dict[str, Any]:
    """The settings as the run was done, else as they were asked for; empty where both are gone."""
    try:
        if model is not None:
            manifest = json.loads((Path(model.adapter_path) / MANIFEST_FILE).read_bytes())
            settings: dict[str, Any] = manifest["settings"]
            return settings
    except (OSError, ValueError, KeyError):
        pass
    try:
        job = parse_job((folder / "job.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return msgspec.to_builtins(job.settings) if isinstance(job, TrainJob) else {}
