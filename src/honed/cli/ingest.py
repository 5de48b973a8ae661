"""`honed ingest`: event lines of files or of standard input, byte for byte as any other door takes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from msgspec import Struct

from honed.cli.asking import EXIT_FAILED, AsJson, ConfigFile, config_from, print_json, run_async
from honed.cli.intake import Intake, open_intake
from honed.cli.printing import say
from honed.config import Config
from honed.stores import open_store
from honed.training_sets import BadRow, RowFile, check_readable, open_rows

_BATCH: Final = 500
_BATCH_BYTES: Final = 4 << 20
_KEPT: Final = 1_000
_SHOWN: Final = 20


class RefusedEvent(Struct, frozen=True, kw_only=True):
    """An event that was not stored."""

    file: str
    line: int
    """Line of the file, or item of its array, from 1."""
    code: str
    path: str
    message: str


class Ingest(Struct, kw_only=True):
    """What `honed ingest --json` prints."""

    stored: int = 0
    duplicates: int = 0
    """Events that the store had."""
    num_rejected: int = 0
    rejected: list[RefusedEvent] = []
    """The first of them."""

    def refuse(self, file: Path, line: int, code: str, path: str, message: str) -> None:
        """Count an event that is not stored."""
        self.num_rejected += 1
        if len(self.rejected) < _KEPT:
            self.rejected.append(
                RefusedEvent(file=str(file), line=line, code=code, path=path, message=message)
            )


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Data")(ingest)


def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Events, one a line; - is stdin.")
    ],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Store events as they are; storing them again changes nothing.

    The daemon takes them when it runs. Events that cannot be stored are reported; with no other
    in the files the exit status is 1.
    """
    done: Ingest = run_async(_ingest, config_from(config), files)
    if as_json:
        print_json(done)
    else:
        _show(done)
    if done.num_rejected and not done.stored + done.duplicates:
        raise typer.Exit(EXIT_FAILED)


async def _ingest(config: Config, files: list[Path]) -> Ingest:
    done = Ingest()
    for file in files:  # before anything is stored
        check_readable(file)
    async with (
        open_store(config.database, composition=config.rewards.composition()) as store,
        open_intake(config, store) as intake,
    ):
        for file in files:
            with open_rows(file) as rows:
                for batch in _batches(rows, file, config.events.line_max, done):
                    await _take(batch, file, intake, done)
        await intake.until_closed()
    return done


async def _take(batch: list[tuple[int, bytes]], file: Path, intake: Intake, done: Ingest) -> None:
    taken = await intake.take_events([line for _, line in batch])
    done.stored += taken.stored
    done.duplicates += taken.duplicates
    for rejected in taken.rejected:
        number = batch[rejected.position][0]
        done.refuse(file, number, rejected.code, rejected.path, rejected.message)


def _batches(
    rows: RowFile, file: Path, line_max: int, done: Ingest
) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their numbers, in batches; one that is too long is refused here."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    for row in rows:
        if isinstance(row, BadRow):
            done.refuse(file, row.line, "invalid", "$", row.reason)
            continue
        line = row.text.rstrip(b"\n")
        if len(line) > line_max:
            message = f"the event has {len(line)} bytes: events.line_max is {line_max}"
            done.refuse(file, row.line, "too_long", "$", message)
            continue
        batch.append((row.line, line))
        size += len(line)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _show(done: Ingest) -> None:
    known = f" ({done.duplicates} known before)" if done.duplicates else ""
    say(f"{done.stored} events stored{known}")
    for bad in done.rejected[:_SHOWN]:
        say(f"{bad.file}:{bad.line} {bad.code}: {bad.message}", err=True)
    if (more := done.num_rejected - _SHOWN) > 0:
        say(f"{more} more events not stored; --json lists the first {_KEPT}", err=True)
