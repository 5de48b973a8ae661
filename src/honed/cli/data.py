"""Commands that bring data in: import."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer
from msgspec import Struct
from rich.progress import track

from honed.cli.asking import (
    EXIT_FAILED,
    AsJson,
    ConfigFile,
    config_from,
    daemon_answers,
    leave,
    print_json,
)
from honed.client import AsyncHonedClient, FeedError
from honed.config import Config
from honed.daemon import only_daemon_of
from honed.errors import HonedError, StoreError
from honed.learn_models import create
from honed.ports import EpisodeFilter
from honed.process import running
from honed.sink import Sink
from honed.stores import SqlStore, open_store
from honed.training_sets import BadRow, ImportedTrajectory, load_or_make_secret, read_trajectories

_BATCH: Final = 100
_CLOSING_MAX_S: Final = 120.0
"""How long imported attempts may take to become episodes."""

Send = Callable[[list[bytes]], Awaitable[None]]


class Imported(Struct, frozen=True, kw_only=True):
    """What `honed import --json` prints."""

    episodes: int
    """Episodes that this import made; 0 when everything was known."""
    trajectories: int
    """Attempts that the file holds."""
    total_episodes: int
    """Episodes of the scenario now."""
    bad_rows: list[BadRow]
    """Rows that could not be read."""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command("import", rich_help_panel="Data")(import_)


def import_(
    file: Annotated[Path, typer.Argument(help="JSON lines: tau-bench or OpenAI messages.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring in trajectories, one episode each; importing twice adds nothing."""
    found = config_from(config)
    imported = _run(_import, found, file, as_json)
    if as_json:
        print_json(imported)
    else:
        known = imported.trajectories - imported.episodes
        typer.echo(
            f"{imported.episodes} episodes from {imported.trajectories} trajectories"
            f"{f' ({known} known before)' if known else ''}; {imported.total_episodes} in all"
        )
        for bad in imported.bad_rows:
            typer.echo(f"line {bad.line} skipped: {bad.reason}", err=True)
    if imported.bad_rows and not imported.trajectories:
        raise typer.Exit(EXIT_FAILED)


def _run(*call: Any) -> Any:
    """Run the coroutine function; an error of honed, of its client or of the file leaves with a message."""
    try:
        return anyio.run(*call)
    except Exception as error:
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, HonedError):
            leave(first)
        if isinstance(first, FeedError):
            leave(HonedError(str(first)))
        raise


async def _import(config: Config, file: Path, quiet: bool) -> Imported:
    ours = EpisodeFilter(scenario=config.scenario)
    bad_rows: list[BadRow] = []
    num_trajectories = 0
    async with open_store(config.database) as store:
        before = await store.count_episodes(ours)
        async with _intake(config, store) as send:
            rows = read_trajectories(file)
            for batch in _batches(track(rows, "importing", disable=quiet, total=None)):
                readable = [_within(config.events.line_max, row) for row in batch]
                trajectories = [row for row in readable if isinstance(row, ImportedTrajectory)]
                bad_rows += [row for row in readable if isinstance(row, BadRow)]
                num_trajectories += len(trajectories)
                await send([line for row in trajectories for line in row.lines])
            await _until_closed(config, store)
        after = await store.count_episodes(ours)
    return Imported(
        episodes=after - before,
        trajectories=num_trajectories,
        total_episodes=after,
        bad_rows=bad_rows,
    )


def _within(line_max: int, row: ImportedTrajectory | BadRow) -> ImportedTrajectory | BadRow:
    """The row, unless an event of it is longer than the feed takes; the same with and without a daemon."""
    if isinstance(row, BadRow) or (longest := max(map(len, row.lines))) <= line_max:
        return row
    return BadRow(row.line, f"{longest} bytes: events.line_max allows {line_max}")


@contextlib.asynccontextmanager
async def _intake(config: Config, store: SqlStore) -> AsyncIterator[Send]:
    """The daemon's feed if a daemon runs, else the same intake in this process."""
    if await anyio.to_thread.run_sync(daemon_answers, config):
        async with AsyncHonedClient(config.feed_socket) as client:

            async def to_daemon(lines: list[bytes]) -> None:
                await client.send_lines(lines)

            yield to_daemon
        return
    with only_daemon_of(config.data_dir):
        is_new = (await store.stats()).num_records == 0
        sink = Sink(
            store,
            [create(config.learn.model)],
            scenario=config.scenario,
            secret=load_or_make_secret(config.data_dir / "secret.key", may_make=is_new),
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda episode: None,
        )

        async def to_sink(lines: list[bytes]) -> None:
            ingested = await sink.ingest(lines)
            for rejected in ingested.rejected:
                raise StoreError(f"an imported event was refused: {rejected.message}")

        async with running(sink.run):
            yield to_sink


async def _until_closed(config: Config, store: SqlStore) -> None:
    """Wait until every ended attempt has become an episode."""
    settle_ms = round(config.events.settle.total_seconds() * 1000)
    with anyio.move_on_after(_CLOSING_MAX_S):
        while True:
            due_ms = await store.next_due_ms(settle_ms=settle_ms, idle_ms=0)
            if due_ms is None or due_ms > time.time() * 1000 + settle_ms + 1000:
                return  # what is left is held back: a learn model refused it
            await anyio.sleep(0.05)


def _batches(
    rows: Iterable[ImportedTrajectory | BadRow],
) -> Iterator[list[ImportedTrajectory | BadRow]]:
    left = iter(rows)
    while batch := list(itertools.islice(left, _BATCH)):
        yield batch
