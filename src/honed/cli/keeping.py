"""Commands that look after the data: backup, restore, forget, cleanup."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from honed.cli.asking import (
    EXIT_USAGE,
    AsJson,
    ConfigFile,
    ask_daemon,
    config_from,
    daemon_answers,
    leave,
    print_json,
    with_store,
)
from honed.cli.printing import say
from honed.config import Config
from honed.daemon import only_daemon_of
from honed.errors import HonedError
from honed.keeping import Cleaned, Forgotten, Keeper, restore_backup, write_backup
from honed.ports import Whose, WhoseKind
from honed.rooms import sink_of
from honed.sources import SocketSource
from honed.stores import SqlStore
from honed.stores.copies import (
    check_copy,
    copy_database,
    database_files,
    has_records,
    move_adapters,
    on_server,
)
from honed.stores.files import parse_url
from honed.stores.postgres.server import Server
from honed.training_sets import load_or_make_secret

T = TypeVar("T")

_PANEL: Final = "Data"


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    app.command(rich_help_panel=_PANEL)(backup)
    app.command(rich_help_panel=_PANEL)(restore)
    app.command(rich_help_panel=_PANEL)(forget)
    app.command(rich_help_panel=_PANEL)(cleanup)


def backup(
    file: Annotated[Path, typer.Argument(help="Where to; must not exist.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
    with_adapters: Annotated[
        bool, typer.Option("--adapters", help="Put the adapters' files in as well.")
    ] = False,
) -> None:
    """Write store and secret into one file, also while the daemon works."""
    found = config_from(config)
    with _Bar(as_json) as on_progress:
        try:
            made = write_backup(
                file.absolute(),
                scenario=found.scenario,
                data_dir=found.data_dir,
                copy=lambda target, told: copy_database(found.database, target, told),
                check=check_copy,
                with_adapters=with_adapters,
                on_progress=on_progress,
            )
        except HonedError as error:
            leave(error)
    if as_json:
        print_json({"file": str(file.absolute())} | msgspec.to_builtins(made))
        return
    size = sum(member.size for member in made.files)
    say(
        f"{file}: {made.records} records, {made.episodes} episodes, {size / 1e6:.1f} MB;"
        f" {len(made.adapters)} adapters {'with' if with_adapters else 'without'} their files"
    )
    say("it holds the store's secret and everything in it: keep it as safe as the store")


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", exists=True, dir_okay=False)],
    config: ConfigFile = None,
    as_json: AsJson = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if there are records; they are moved aside.")
    ] = False,
) -> None:
    """Put a backup into the data folder; the daemon must be stopped."""
    found = config_from(config)
    place = parse_url(found.database)
    if isinstance(place, Server):
        leave(on_server(place, "restored"))
    path = place.path
    if path is None:
        leave(HonedError("the store is in memory: there is nothing to restore to"))
    with _Bar(as_json) as on_progress:
        try:
            with only_daemon_of(found.data_dir):
                if has_records(found.database) and not force:
                    raise HonedError(
                        f"there are records in {path}",
                        advice="with --force they are moved aside, into a folder beside it",
                    )
                done = restore_backup(
                    file,
                    scenario=found.scenario,
                    data_dir=found.data_dir,
                    database_path=path,
                    existing=database_files(found.database),
                    check=check_copy,
                    move_adapters=move_adapters,
                    on_progress=on_progress,
                )
        except HonedError as error:
            leave(error)
    if as_json:
        print_json(done)
        return
    say(
        f"{done.backup.records} records and {done.backup.episodes} episodes"
        f" of {done.backup.created_at} are in {found.data_dir}"
    )
    if done.moved_to:
        say(f"what was there is in {done.moved_to}")
    if done.missing_adapters:
        say(f"without their files: {', '.join(done.missing_adapters)}", err=True)


def forget(
    config: ConfigFile = None,
    as_json: AsJson = False,
    episode: Annotated[str | None, typer.Option(help="An episode, by its id.")] = None,
    task: Annotated[str | None, typer.Option(help="A task.")] = None,
    group: Annotated[str | None, typer.Option(help="All attempts of a group.")] = None,
    session: Annotated[str | None, typer.Option(help="A session.")] = None,
    agent: Annotated[str | None, typer.Option(help="All that an agent took part in.")] = None,
    user: Annotated[str | None, typer.Option(help="All that a user took part in.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
) -> None:
    """Delete all of somebody's data for ever; shows what that is, and asks."""
    given = {
        "episode": episode,
        "task": task,
        "group": group,
        "session": session,
        "agent": agent,
        "user": user,
    }
    whose = [Whose(kind, name) for kind in get_args(WhoseKind) if (name := given[kind])]
    if len(whose) != 1:
        say(f"honed: name one of {', '.join(f'--{kind}' for kind in given)}", err=True)
        raise typer.Exit(EXIT_USAGE)
    found = config_from(config)
    seen = _forget(found, whose[0], dry=True)
    is_empty = not (seen.records or seen.episodes or seen.attempts)
    if not as_json:
        _show_forgotten(seen)
    if not is_empty and not yes:
        if as_json:
            print_json(seen)
            return
        typer.confirm("Delete it for ever?", abort=True)
    done = seen if is_empty else _forget(found, whose[0], dry=False)
    if as_json:
        print_json(done)
    elif done.done:
        say("forgotten")
        if not done.scrubbed:
            say("a reader kept the log from being emptied: forget it again", err=True)
        if done.unsearched:
            say(f"not searched: {done.unsearched}", err=True)
        for line in done.out_of_reach:
            say(f"  {line}")


def cleanup(
    config: ConfigFile = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing, only say what would be done.")
    ] = False,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact", help="Write the store anew without its gaps; the daemon must be stopped."
        ),
    ] = False,
) -> None:
    """Clear away what is older than the config's section keep allows."""
    found = config_from(config)
    if compact and not dry_run:
        _check_stopped(found)
    cleaned = _asked(
        found,
        "/v1/cleanup",
        {"dry": dry_run, "keep": found.keep.model_dump(mode="json")},
        Cleaned,
        lambda keeper: keeper.cleanup(dry=dry_run),
    )
    given_back = _compact(found) if compact and not dry_run else 0
    if as_json:
        print_json(msgspec.to_builtins(cleaned) | {"given_back_bytes": given_back})
        return
    say(
        f"{'would go' if dry_run else 'gone'}: {cleaned.records} records,"
        f" {cleaned.episodes} episodes, {len(cleaned.runs)} run folders,"
        f" {len(cleaned.adapters)} rejected adapters; {cleaned.freed_bytes / 1e6:.1f} MB of files"
    )
    if cleaned.given_back_bytes:
        say(f"the store's file is {cleaned.given_back_bytes / 1e6:.1f} MB smaller")
    if cleaned.over_bytes:
        say(_told_of_room(cleaned))
    if compact and not dry_run:
        say(f"the store is {given_back / 1e6:.1f} MB smaller")


def _told_of_room(cleaned: Cleaned) -> str:
    """What the data take beyond their limit, and what that does or would do."""
    beyond = f"{cleaned.over_bytes / 1e6:.1f} MB more than keep.max_size"
    if cleaned.done:
        return f"the data still take {beyond}: no training has seen what is left"
    if not cleaned.room_records:
        return f"the data take {beyond}, and nothing would go for that: no training has seen it"
    return (
        f"the data take {beyond}: the oldest would go until the rest fits, or nothing more may go;"
        f" found so far: {cleaned.room_records} records, {cleaned.room_episodes} episodes"
    )


def _check_stopped(config: Config) -> None:
    """Leave, before anything is cleaned, where a daemon is in the way of compacting."""
    try:
        with only_daemon_of(config.data_dir):
            pass
    except HonedError as error:
        leave(error)


def _compact(config: Config) -> int:
    try:
        with only_daemon_of(config.data_dir):
            return with_store(config, lambda store: store.keeping.compact(), alone=True)
    except HonedError as error:
        leave(error)


def _forget(config: Config, whose: Whose, *, dry: bool) -> Forgotten:
    body = {"kind": whose.kind, "name": whose.name, "dry": dry}
    return _asked(
        config, "/v1/forget", body, Forgotten, lambda keeper: keeper.forget(whose, dry=dry)
    )


def _asked(
    config: Config,
    path: str,
    body: dict[str, Any],
    cls: type[T],
    work: Callable[[Keeper], Awaitable[T]],
) -> T:
    """Have the daemon do it, or do it here where none runs."""
    try:
        if daemon_answers(config):
            return msgspec.convert(ask_daemon(config, "POST", path, body), cls)
        with only_daemon_of(config.data_dir):

            async def here(store: SqlStore) -> T:
                is_new = not await store.has_records()
                secret = load_or_make_secret(config.data_dir / "secret.key", may_make=is_new)
                sink = sink_of(config, config.learn.models(), store, secret, lambda episode: None)
                feed = SocketSource(
                    config.feed_socket,
                    sink,
                    scenario=config.scenario,
                    line_max=config.events.line_max,
                    allow_uids=config.events.allow_uids,
                )
                return await work(Keeper(config, store, store.keeping, sink=sink, door=feed.open))

            return with_store(config, here, alone=True)
    except HonedError as error:
        leave(error)


def _show_forgotten(seen: Forgotten) -> None:
    say(
        f"{seen.kind} {seen.name}: {seen.records} records in {seen.attempts} attempts,"
        f" {seen.episodes} episodes"
    )
    if seen.unsearched:
        say(f"  not searched: {seen.unsearched}")
    if seen.runs:
        say(f"  rows in the files of {len(seen.runs)} runs: {', '.join(seen.runs)}")
    for model_id, count in seen.adapters.items():
        say(f"  {model_id} learned from {count} of the episodes, and will not unlearn it")


class _Bar:
    """A progress bar that is told what is done, and of how many bytes."""

    def __init__(self, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._bar.start()
        return self._told

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _told(self, what: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total)
