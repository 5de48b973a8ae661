"""The command that takes data out: export."""

import contextlib
import errno
import gzip
import os
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
import typer
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress

from honed.cli.asking import EXIT_FAILED, AsJson, ConfigFile, config_from, leave, with_store
from honed.cli.printing import say
from honed.config import Config
from honed.domain.times import now_ms
from honed.errors import HonedError
from honed.learn_models import LearnModel
from honed.ports import EpisodeFilter
from honed.stores import SqlStore
from honed.training_sets import EXPORTS, Export, HeldOutSplit, load_or_make_secret
from honed.triggers.duration import parse_duration

_DEFAULT_OUTCOMES: Final = {
    "sft": frozenset({"success"}),
    "conversations": frozenset({"success"}),
    "prompt-completion": frozenset({"success"}),
    "sharegpt": frozenset({"success"}),
}
"""Failures are never imitated, unless one asks for it."""
_STDOUT: Final = Path("-")


class _Out(Protocol):
    def write(self, data: bytes, /) -> int: ...


class OutcomeChoice(StrEnum):
    """Which episodes to write."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    ALL = "all"


class Exported(Struct, frozen=True, kw_only=True):
    """What `honed export --json` prints."""

    format: str
    file: str
    rows: int
    """Lines written."""
    episodes: int
    """Episodes looked at."""
    others: int
    """Episodes that were not looked at because of their outcome, which was not asked for."""
    left_out: dict[str, int]
    """Reason to number of episodes that are in no row."""
    shorter_conversations: int
    """Conversations besides the longest of each attempt, which alone is written."""
    fault: str | None
    """The first episode that could not be converted."""


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Data")(export)


def export(
    file: Annotated[
        Path, typer.Argument(help="JSON lines, .gz compressed; - is stdout.")
    ] = _STDOUT,
    config: ConfigFile = None,
    as_json: AsJson = False,
    form: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(EXPORTS)}.")] = "honed",
    outcome: Annotated[
        list[OutcomeChoice] | None,
        typer.Option(
            help="Episodes that ended so; may be repeated. Default: what the form is for."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Not older than this: 7d, 12h, or a date in UTC.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Another scenario of this store than the config's own.")
    ] = None,
    learn_model: Annotated[
        str | None,
        typer.Option(help="Whose episodes, where learn.model names several; default: the first."),
    ] = None,
) -> None:
    """Write episodes to a file, with the text of their conversations.

    `honed` is the full form, which `honed import` reads back as it was. The others are what trainers
    read: what they cannot hold is left out and counted. Works beside a running daemon.
    """
    if form not in EXPORTS:
        raise typer.BadParameter(f"{form!r} is none of {', '.join(EXPORTS)}", param_hint="--format")
    if form == "preference" and outcome:
        raise typer.BadParameter(
            "preference rows need successes and failures", param_hint="--outcome"
        )
    found = config_from(config)
    wanted = scenario or found.scenario
    model = _chosen(found, learn_model)
    filter = EpisodeFilter(
        scenario=wanted,
        learn_model=None if form == "honed" else model.name,
        outcomes=_outcomes(form, outcome),
        since_ms=None if since is None else _since_ms(since),
    )

    async def write(store: SqlStore) -> Exported:
        export = Export(
            store=store,
            learn_model=model,
            scenario=wanted,
            shape=form,
            filter=filter,
            split=_split(found),
        )
        total = await store.count_episodes(filter)
        of_any = await store.count_episodes(msgspec.structs.replace(filter, outcomes=None))
        others = 0 if outcome else of_any - total
        with Progress(console=Console(stderr=True), disable=as_json) as bar, _written(file) as out:
            task = bar.add_task("exporting", total=total)
            async for line in export.lines():
                out.write(line + b"\n")
                bar.update(task, completed=export.num_episodes)
            bar.update(task, completed=total)
        return Exported(
            format=form,
            file=str(file),
            rows=export.num_rows,
            episodes=export.num_episodes,
            others=others,
            left_out=dict(export.left_out),
            shorter_conversations=export.num_forks,
            fault=export.fault,
        )

    try:
        exported = with_store(found, write)
    except BrokenPipeError:  # `| head` has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        leave(HonedError(f"{file} cannot be written: {error.strerror}"))
    _show(exported, as_json=as_json, beside=file == _STDOUT)


def _split(config: Config) -> HeldOutSplit | None:
    """The split of the data folder; None where no secret has made one."""
    path = config.data_dir / "secret.key"
    if not path.exists():
        return None
    return HeldOutSplit(load_or_make_secret(path, may_make=False), config.gate.held_out_fraction)


def _show(exported: Exported, *, as_json: bool, beside: bool) -> None:
    """The counts; on stderr where stdout has the rows."""
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(exported), indent=2).decode()
        say(text, err=beside)
        return
    say(f"{exported.rows} rows from {exported.episodes} episodes", err=beside)
    if exported.others:
        outcomes = "/".join(sorted(_DEFAULT_OUTCOMES.get(exported.format, ())))
        say(
            f"  {exported.others} episodes with another outcome than {outcomes} left out"
            " (--outcome all takes them)",
            err=beside,
        )
    for reason, count in sorted(exported.left_out.items(), key=lambda pair: -pair[1]):
        say(f"  {count} left out: {reason}", err=beside)
    if exported.shorter_conversations:
        say(
            f"  {exported.shorter_conversations} shorter conversations of the same attempts left out",
            err=beside,
        )
    if exported.fault:
        say(f"  first fault: {exported.fault}", err=beside)


def _outcomes(form: str, chosen: list[OutcomeChoice] | None) -> frozenset[str] | None:
    if not chosen:
        return _DEFAULT_OUTCOMES.get(form)
    return None if OutcomeChoice.ALL in chosen else frozenset(choice.value for choice in chosen)


def _since_ms(text: str) -> int:
    try:
        return now_ms() - round(parse_duration(text).total_seconds() * 1000)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a span (7d, 12h) nor a date (2026-03-01)", param_hint="--since"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@contextlib.contextmanager
def _written(path: Path) -> Iterator[_Out]:
    """A file that is there whole or not at all, readable by its owner alone; or standard output."""
    if path == _STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    yield packed
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _chosen(config: Config, name: str | None) -> LearnModel:
    """The learn model of that name, None: the first; leaves the program when the config has none of it."""
    models = config.learn.models()
    for model in models:
        if name in (None, model.name):
            return model
    known = ", ".join(model.name for model in models)
    raise typer.BadParameter(f"{name!r} is none of {known}", param_hint="--learn-model")
