"""A folder with the files of a stand-alone run, and the run itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from honed.config.run_file import RunFile, run_file_of
from honed.domain.job import Progress
from honed.standalone import Finished, RunStatus, train
from tests.tiny_models import conversations


class Told(NamedTuple):
    """What a run told meanwhile."""

    notes: list[str]
    statuses: list[RunStatus]
    """After each logging step."""
    on_disk: list[dict[str, Any]]
    """What `training-status.json` held then."""


def config(base: Path, **sections: dict[str, Any]) -> RunFile:
    """A short run on a tiny model."""
    table: dict[str, dict[str, Any]] = {
        "model": {"name": str(base), "max_seq_length": 256},
        "lora": {},
        "training": {
            "num_train_epochs": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 5e-3,
            "save_steps": 4,
        },
        "dataset": {},
    }
    for name, keys in sections.items():
        table[name] = table.get(name, {}) | keys
    return run_file_of(table, "test")


def write_splits(folder: Path, num_rows: int = 32, held: int = 8) -> None:
    """`data/splits/train.jsonl` and `val.jsonl`."""
    rows = conversations(num_rows)
    splits = folder / "data/splits"
    splits.mkdir(parents=True)
    write_lines(splits / "train.jsonl", rows[held:])
    if held:
        write_lines(splits / "val.jsonl", rows[:held])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def do(
    run: RunFile,
    folder: Path,
    told: Told | None = None,
    *,
    on_status: Callable[[RunStatus], None] = lambda status: None,
    resume: bool = False,
    fresh: bool = False,
) -> Finished:
    """The run, by a worker process."""
    seen = Told([], [], []) if told is None else told

    def take(progress: Progress, status: RunStatus) -> None:
        if progress.note is not None:
            seen.notes.append(progress.note)
        if progress.loss is not None:
            seen.statuses.append(status)
            seen.on_disk.append(json.loads((folder / "training-status.json").read_text()))
            on_status(status)

    async def work() -> Finished:
        return await train(run, folder, resume=resume, fresh=fresh, on_progress=take)

    return anyio.run(work)
