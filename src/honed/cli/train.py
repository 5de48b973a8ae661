"""`honed train`: one training from a config file, without a daemon; and what there is to see of it."""

import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer
from anyio.abc import TaskStatus
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from honed.cli.asking import EXIT_CONFIG, EXIT_FAILED, AsJson, leave, print_json, run_async
from honed.cli.printing import add_row, say, show, visible
from honed.cli.run_options import BaseModel, RunFile
from honed.config import run_file
from honed.domain import job
from honed.errors import ConfigError, HonedError, NotFoundError, ValidationError
from honed.standalone import STATUS_FILE, Finished, RunStatus, read_status, script_of, train
from honed.standalone.keeper import LOG_FILE

_LOOK_S: Final = 0.3
_QUIET_S: Final = 600.0
"""A run that was not heard of for so long may have been killed."""


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command("train", rich_help_panel="Stand-alone runs")(train_)


def train_(
    config: RunFile = None,
    base_model: BaseModel = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint, to the same weights.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, even if a run was cut off.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Write the run as a script without honed, and end."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show where the run of this folder is, and end.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its log until it ends, and end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run one training from a config file, without a daemon.

    Reads the files that the config names and writes the adapter, training-status.json, logs/training.log and
    metrics/training-stats.json. Without --config the defaults hold; --base-model alone is needed then.

    Exit status: 0 done, 1 failed, 78 bad config, 143 stopped (go on with --resume).
    """
    here = Path()
    if status or follow:
        _look(here, as_json=as_json, follow=follow)
        return
    run = _config(config, base_model)
    if export is not None:
        _export(run, here, export)
        return
    if config is None:
        _show_settings(run)
    finished = run_async(_train, run, here, resume, fresh, as_json)
    if finished is None:
        say("stopped; the same command with --resume goes on", err=True)
        raise typer.Exit(128 + signal.SIGTERM)
    if as_json:
        print_json(finished)
    else:
        _show_finished(finished)


def _config(path: Path | None, base_model: str | None) -> run_file.RunFile:
    try:
        if path is not None:
            return run_file.load_run_file(path, base_model=base_model)
        table = run_file.default_table(base_model)
        return run_file.run_file_of(table, "no --config; the defaults")
    except ConfigError as error:
        if path is None:
            say("Defaults of a run:", err=True)
            for line in _lines(run_file.default_table()):
                say(f"  {line}", err=True)
        if len(error.faults) < 2:
            leave(error, EXIT_CONFIG)
        for fault in error.faults:
            say(f"  {fault}", err=True)
        leave(ConfigError(f"{path} has {len(error.faults)} faults, all of them above"), EXIT_CONFIG)


def _lines(table: dict[str, Any]) -> list[str]:
    return [
        f"{section}.{key} = {msgspec.json.encode(value).decode()}"
        for section, keys in table.items()
        for key, value in keys.items()
    ]


def _show_settings(run: run_file.RunFile) -> None:
    say("No --config, the defaults hold:", err=True)
    for line in _lines(run.model_dump(mode="json")):
        say(f"  {line}", err=True)


def _export(run: run_file.RunFile, folder: Path, file: Path) -> None:
    try:
        file.write_text(script_of(run, folder, file), encoding="utf-8")
    except OSError as error:
        leave(HonedError(f"{file} cannot be written: {error.strerror}"))
    except ValidationError as error:
        leave(error)
    say(f"{file}: run it with python in this folder")


async def _train(
    run: run_file.RunFile, folder: Path, resume: bool, fresh: bool, quiet: bool
) -> Finished | None:
    """The run with its progress shown; None when it was stopped."""
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        disable=quiet,
    )
    task = bar.add_task("loading", total=None, left="")

    def take(progress: job.Progress, status: RunStatus) -> None:
        if progress.note and not quiet:
            bar.console.print(Text(visible(progress.note)))
        loss = "" if status.loss is None else f" loss {status.loss:.3f}"
        left = "" if status.eta_seconds is None else f"{_span(status.eta_seconds)} left"
        bar.update(
            task,
            description=f"{progress.phase}{loss}",
            total=status.total_steps or None,
            completed=status.step,
            left=left,
        )

    finished = None
    async with anyio.create_task_group() as group:
        await group.start(_stop_on_signal, group.cancel_scope)
        with bar:
            finished = await train(run, folder, resume=resume, fresh=fresh, on_progress=take)
        group.cancel_scope.cancel()
    return finished


async def _stop_on_signal(
    scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """End the run in good order; a second signal ends this process at once."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            break
    scope.cancel()


def _show_finished(finished: Finished) -> None:
    stats = finished.stats
    loss = "not logged" if stats.final_loss is None else f"{stats.final_loss:.3f}"
    say(f"{stats.total_steps} steps on {stats.dataset_samples} rows, final loss {loss}")
    say(f"adapter {finished.lora_path}")
    for name, path in (("merged", finished.merged_path), ("gguf", finished.gguf_path)):
        if path is not None:
            say(f"{name} {path}")
    for remark in finished.remarks:
        say(f"{remark.level}: {remark.text}")


def _look(folder: Path, *, as_json: bool, follow: bool) -> None:
    try:
        found = _status(folder)
        if follow:
            _follow(folder)
            found = _status(folder)
    except ValidationError as error:
        leave(error)
    if found is None:
        leave(
            NotFoundError(f"no run has written {STATUS_FILE} or {LOG_FILE} in {folder.absolute()}")
        )
    if as_json:
        print_json(found)
    elif not follow:
        _show_status(found)
    if found.error is not None:
        raise typer.Exit(EXIT_FAILED)


def _status(folder: Path) -> RunStatus | None:
    return read_status(folder / STATUS_FILE, folder / LOG_FILE)


def _follow(folder: Path) -> None:
    """Print what is and will be in the log, until the run has ended."""
    path = folder / LOG_FILE
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            status = _status(folder)
            for line in file:
                say(line.rstrip("\n"))
            if status is None or not status.running:
                return
            time.sleep(_LOOK_S)


def _show_status(status: RunStatus) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in msgspec.to_builtins(status).items():
        add_row(table, name, "" if value is None else str(value))
    show(table)
    if status.running and (quiet := _quiet_s(status.last_updated)) > _QUIET_S:
        say(f"not heard of for {_span(quiet)}: if it was killed, its command goes on with --resume")


def _quiet_s(at: str) -> float:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except ValueError:
        return 0.0


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
