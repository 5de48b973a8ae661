"""`honed logs`: what a run has said, and says."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer

from honed.cli.asking import (
    EXIT_FAILED,
    AsJson,
    ConfigFile,
    config_from,
    daemon_answers,
    with_store,
)
from honed.cli.endings import ending
from honed.cli.printing import say
from honed.cli.run_folder import PROGRESS, WORKER_LOG, Growing, find_run
from honed.config import Config
from honed.domain.job import Progress
from honed.domain.run import Run
from honed.domain.times import now_ms
from honed.stores import SqlStore

_LOOK_S: Final = 0.3
_QUIET_LOOKS: Final = 30
"""Looks without a new line after which it is asked whether the daemon still runs."""
_progress = msgspec.json.Decoder(Progress).decode


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Looking")(logs)


def logs(
    run: Annotated[
        str | None, typer.Argument(help="Its id, or its adapter's; default: the newest.")
    ] = None,
    config: ConfigFile = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a run's worker has written and how its loss went."""
    found = config_from(config)
    try:
        status = with_store(found, lambda store: _show(store, found, run, follow, as_json))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(status)


async def _show(
    store: SqlStore, config: Config, name: str | None, follow: bool, as_json: bool
) -> int:
    run, folder_name = await find_run(store, config.scenario, name)
    folder = config.runs_dir / folder_name
    reading = _Reading(folder, as_json)
    quiet = 0
    while follow and run.state == "running":
        # The state first: what is written before the end is then read after it.
        run, _ = await find_run(store, config.scenario, run.id)
        quiet = 0 if reading.show() else quiet + 1
        if quiet >= _QUIET_LOOKS and not daemon_answers(config):
            say(f"honed: no daemon runs that would go on with {run.id}", err=True)
            return EXIT_FAILED
        if run.state == "running":
            await anyio.sleep(_LOOK_S)
    is_any = reading.show(last=run.state != "running") or reading.has_shown
    if not as_json:
        if not is_any:
            say(f"{run.id} has written nothing, or its files in {folder} are gone")
        say(_ended(run))
    return 0


def _ended(run: Run) -> str:
    if run.state == "running":
        return f"{run.id} is in progress; -f goes on"
    return ending(msgspec.to_builtins(run), now_ms())


class _Reading:
    """The two files of a run, each shown as far as it goes."""

    def __init__(self, folder: Path, as_json: bool) -> None:
        self._log = Growing(folder / WORKER_LOG)
        self._progress = Growing(folder / PROGRESS)
        self._as_json = as_json
        self.has_shown = False

    def show(self, *, last: bool = False) -> bool:
        """Show what is new; whether anything was."""
        log, progress = self._log.lines(all=last), self._progress.lines()
        for line in log:
            self._say({"log": line.decode(errors="replace")}, line.decode(errors="replace"))
        for line in progress:
            try:
                told = _progress(line)
            except msgspec.DecodeError:
                continue  # of another version
            self._say(msgspec.to_builtins(told), words(told))
        self.has_shown = self.has_shown or bool(log or progress)
        return bool(log or progress)

    def _say(self, value: dict[str, Any], text: str) -> None:
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
            sys.stdout.flush()
        else:
            say(text)


def words(progress: Progress) -> str:
    """A line of progress for people."""
    parts = [progress.phase]
    if progress.step is not None:
        parts.append(f"step {progress.step}" + _of(progress.total_steps))
    figures: list[tuple[str, float | None, str]] = [
        ("epoch", progress.epoch, ".2f"),
        ("loss", progress.loss, ".4f"),
        ("validation loss", progress.validation_loss, ".4f"),
        ("learning rate", progress.learning_rate, ".2e"),
        ("margin", progress.reward_margin, "+.3f"),
        ("accuracy", progress.reward_accuracy, ".2f"),
        ("tokens/s", progress.tokens_per_second, ".0f"),
        ("MB", progress.rss_mb, ".0f"),
    ]
    parts += [f"{name} {value:{form}}" for name, value, form in figures if value is not None]
    return "  ".join(parts) + (f"  {progress.note}" if progress.note else "")


def _of(total: int | None) -> str:
    return f"/{total}" if total else ""
