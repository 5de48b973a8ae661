"""The command that brings data in: import."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import Struct, field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from honed.cli.asking import EXIT_FAILED, AsJson, ConfigFile, config_from, print_json, run_async
from honed.cli.intake import Intake, open_intake
from honed.cli.printing import say
from honed.config import Config
from honed.ports import EpisodeFilter
from honed.stores import open_store
from honed.training_sets import (
    FORMATS,
    BadRow,
    Format,
    Reading,
    check_readable,
    open_rows,
    read_rows,
)

_BATCH: Final = 100
_BATCH_BYTES: Final = 4 << 20
_KEPT: Final = 1_000
"""Refused rows that the report lists; all of them are counted."""
_SHOWN: Final = 20


class RefusedRow(Struct, frozen=True, array_like=True):
    """A row that was not taken."""

    line: int
    """Line of the file, or item of its array, from 1."""
    reason: str
    file: str
    unit: str = "line"


class Imported(Struct, kw_only=True):
    """What `honed import --json` prints."""

    episodes: int = 0
    """Episodes that this import made; 0 when everything was known."""
    trajectories: int = 0
    """Attempts that the files hold."""
    total_episodes: int = 0
    """Episodes of the scenario now."""
    bad_rows: list[RefusedRow] = []
    """The first rows that could not be taken."""
    num_bad_rows: int = 0
    known: int = 0
    """Attempts that the store had."""
    unlabelled: int = 0
    """Episodes of the scenario now that have no outcome yet."""
    joined: int = 0
    """Attempts that name one of another row: they share its episode."""
    dropped_turns: int = 0
    """Turns after the last assistant turn; nobody answered them."""
    formats: Counter[str] = field(default_factory=Counter)
    """Rows by the form they were read as."""
    other_scenarios: Counter[str] = field(default_factory=Counter)
    """Episodes of honed's own form that belong to another scenario; they stay there."""

    def refuse(self, bad: BadRow, file: Path, unit: str) -> None:
        """Count a row that cannot be taken."""
        self.num_bad_rows += 1
        if len(self.bad_rows) < _KEPT:
            self.bad_rows.append(RefusedRow(bad.line, bad.reason, str(file), unit))


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command("import", rich_help_panel="Data")(import_)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="JSON lines or arrays, also .gz; - is stdin."),
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"Read all rows as one of: {', '.join(FORMATS)}."),
    ] = None,
) -> None:
    """Bring in trajectories, one episode each; importing twice adds nothing.

    The form of each row is found by its keys unless --format says it. Rows that cannot be taken
    over whole are reported and skipped; with nothing else in the files the exit status is 1.
    """
    if form is not None and form not in FORMATS:
        raise typer.BadParameter(f"{form!r} is none of {', '.join(FORMATS)}", param_hint="--format")
    found = config_from(config)
    imported: Imported = run_async(_import, found, files, FORMATS[form] if form else None, as_json)
    if as_json:
        print_json(imported)
    else:
        _show(imported, several=len(files) > 1)
    if imported.num_bad_rows and not imported.trajectories:
        raise typer.Exit(EXIT_FAILED)


async def _import(config: Config, files: list[Path], form: Format | None, quiet: bool) -> Imported:
    ours = EpisodeFilter(scenario=config.scenario)
    imported = Imported()
    for file in files:  # before anything is stored
        check_readable(file)
    async with open_store(config.database, composition=config.rewards.composition()) as store:
        before = await store.count_episodes(ours)
        async with open_intake(config, store) as intake:
            with _progress(quiet) as bar:
                for file in files:
                    await _import_file(file, form, intake, imported, bar)
            await intake.until_closed()
        imported.total_episodes = await store.count_episodes(ours)
        waiting = EpisodeFilter(scenario=config.scenario, outcomes=frozenset({"unknown"}))
        imported.unlabelled = await store.count_episodes(waiting)
    imported.known = intake.num_known
    imported.other_scenarios = intake.elsewhere
    imported.episodes = imported.total_episodes - before + intake.elsewhere.total()
    imported.joined = max(0, imported.trajectories - imported.known - imported.episodes)
    return imported


async def _import_file(
    file: Path, form: Format | None, intake: Intake, imported: Imported, bar: Progress
) -> None:
    with open_rows(file) as rows:
        task = bar.add_task(f"importing {file.name}", total=rows.size)
        for batch in _batches(read_rows(rows, form)):
            for row in batch:
                taken = await intake.take(row) if isinstance(row, Reading) else row
                if isinstance(taken, BadRow):
                    imported.refuse(taken, file, rows.unit)
                    continue
                imported.formats[taken.format] += 1
                imported.trajectories += 1 if taken.episode else len(taken.trajectories)
                imported.dropped_turns += sum(told.num_dropped for told in taken.trajectories)
            await intake.flush()
            bar.update(task, completed=rows.position)


def _show(imported: Imported, *, several: bool) -> None:
    known = f" ({imported.known} known before)" if imported.known else ""
    say(
        f"{imported.episodes} episodes from {imported.trajectories} trajectories{known};"
        f" {imported.total_episodes} in all"
    )
    for name, count in imported.formats.items():
        say(f"  {count} rows of the form {name}")
    for scenario, count in imported.other_scenarios.items():
        say(f"  {count} episodes belong to the scenario {scenario or '(none)'}")
    if imported.unlabelled:
        say(
            f"  {imported.unlabelled} of all wait for an outcome: `honed feedback` tells it, or"
            ' learn.unlabelled = "train" takes them as successes'
        )
    if imported.joined:
        say(f"  {imported.joined} trajectories name an attempt that another row made")
    if imported.dropped_turns:
        say(f"  {imported.dropped_turns} turns after the last answer left out")
    for bad in imported.bad_rows[:_SHOWN]:
        where = f"{bad.file}: " if several else ""
        say(f"{where}{bad.unit} {bad.line} skipped: {bad.reason}", err=True)
    if (more := imported.num_bad_rows - _SHOWN) > 0:
        say(f"{more} more rows skipped; --json lists the first {_KEPT}", err=True)


def _batches(rows: Iterator[Reading | BadRow]) -> Iterator[list[Reading | BadRow]]:
    """Cut by number and by bytes, so that memory does not follow the length of the rows."""
    batch: list[Reading | BadRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        if isinstance(row, Reading):
            size += sum(len(line) for told in row.trajectories for line in told.lines)
        if isinstance(row, Reading) and row.episode is not None:
            size += sum(len(event.body) for event in row.episode.provenance.events)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
