"""`honed data show`: one episode as the base model would be trained on it."""

import difflib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import anyio
import typer
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from honed.cli.asking import (
    EXIT_CONFIG,
    AsJson,
    ConfigFile,
    config_from,
    leave,
    print_json,
    with_store,
)
from honed.cli.lessons import sentences
from honed.cli.printing import visible
from honed.config import Config
from honed.domain.episode import Episode
from honed.domain.job import RenderJob, RenderResult, TooLong
from honed.domain.rendered import Drop, RenderedExample, RenderedRow, Segment, State
from honed.domain.training_data import TrainingData
from honed.errors import ConfigError, HonedError, NotFoundError
from honed.learn_models import LeftOut, convert, create
from honed.ports import EpisodeFilter, Lesson
from honed.processors import run_job
from honed.rooms import training_sets_of
from honed.stores import SqlStore
from honed.training_sets.held_out import load_or_make_secret
from honed.training_sets.rows import format_row

_STYLES: Final[dict[State, str]] = {"prompt": "dim", "kept": "bold green", "dropped": "red"}
_MARKS: Final[dict[State, str]] = {"prompt": "  ", "kept": "+ ", "dropped": "- "}
_NEAREST: Final = 3
_TEXT_MAX: Final = 200_000
"""Characters of all rows on the screen; --json has all of them."""


class Shown(Struct, frozen=True, kw_only=True):
    """What `honed data show --json` prints."""

    episode: str
    learn_model: str
    task_id: str | None
    base_model: str
    max_length: int
    not_trained: str | None
    """Why no training set takes the episode; None when it would."""
    tokens: int
    """Of all rows."""
    eligible: int
    """The assistant's tokens that should be learned."""
    kept: int
    """Those that count in the loss."""
    share: float | None
    """Kept of eligible; None when nothing is eligible."""
    drops: tuple[Drop, ...]
    left_out: list[LeftOut]
    """What of the episode is in none of the rows."""
    lessons: list[Lesson]
    """The adapters that learned from it."""
    rows: tuple[RenderedRow, ...]


class _Found(NamedTuple):
    """An episode as the learn model gives it to training."""

    episode: Episode
    example: TrainingData
    left_out: Sequence[LeftOut]
    not_trained: str | None
    lessons: list[Lesson]


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    data = typer.Typer(help="Look at what is learned from.", no_args_is_help=True)

    @data.callback()
    def group() -> None:
        """Look at what is learned from."""

    data.command()(show)
    app.add_typer(data, name="data", rich_help_panel="Looking")


def show(
    episode: Annotated[str, typer.Argument(help="Its id; `honed episodes` lists them.")],
    config: ConfigFile = None,
    as_json: AsJson = False,
    max_length: Annotated[
        int | None, typer.Option(min=16, help="Tokens a row may hold (default: train.max_length).")
    ] = None,
) -> None:
    """Show an episode's text as training sees it: what counts, and why the rest does not."""
    found = config_from(config)
    if found.base_model is None:
        error = ConfigError(
            "base_model is not set: its chat template and tokenizer make the text",
            advice="set base_model in the config, or HONED__BASE_MODEL in the environment",
        )
        leave(error, EXIT_CONFIG)
    try:
        whole = with_store(found, partial(_read, found, episode))
        length = max_length or found.train.max_length
        shown = _shown(
            whole,
            anyio.run(_render, found.base_model, whole, length, found.learn.too_long),
            found,
            length,
        )
    except HonedError as error:
        leave(error)
    if as_json:
        print_json(shown)
        return
    out = Console(highlight=False)
    is_coloured = out.is_terminal and not out.no_color
    for line in (_coloured if is_coloured else _plain)(_cut(shown)):
        out.print(line, soft_wrap=True, markup=False)


async def _read(config: Config, episode_id: str, store: SqlStore) -> _Found:
    try:
        episode = await store.get_episode(episode_id)
    except NotFoundError as error:
        rows = await store.list_episodes(EpisodeFilter(newest_first=True, limit=10_000))
        near = difflib.get_close_matches(episode_id, [row.id for row in rows], _NEAREST, 0.5)
        hint = f"the nearest: {', '.join(near)}; " if near else ""
        raise NotFoundError(str(error), advice=f"{hint}`honed episodes` lists them") from error
    chosen = {model.name: model for model in config.learn.models()}
    learn_model = chosen.get(episode.learn_model) or create(episode.learn_model)
    actions = await store.distinct_actions(config.scenario)
    example = convert(learn_model, episode, available_actions=actions)
    secret = load_or_make_secret(config.data_dir / "secret.key", may_make=False)
    sets = training_sets_of(config, learn_model, store, secret)
    return _Found(
        episode=episode,
        example=example,
        left_out=learn_model.left_out(episode),
        not_trained=await sets.why_not(episode),
        lessons=await store.lessons.of(episode_id),
    )


async def _render(
    base_model: str, found: _Found, max_length: int, too_long: TooLong
) -> RenderedExample:
    """The very line of the training file goes to the very code that makes rows of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "episode.jsonl"
        data.write_bytes(format_row(found.example) + b"\n")
        result = await run_job(
            RenderJob(
                base_model=base_model,
                data_path=str(data),
                max_length=max_length,
                too_long=too_long,
                result_path=str(folder / "result.json"),
                left_out=({each.turn: each.reason for each in found.left_out if each.turn},),
            ),
            folder,
        )
    assert isinstance(result, RenderResult)
    return result.examples[0]


def _shown(found: _Found, example: RenderedExample, config: Config, max_length: int) -> Shown:
    assert config.base_model is not None
    return Shown(
        episode=found.episode.id,
        learn_model=found.episode.learn_model,
        task_id=found.episode.task_id,
        base_model=config.base_model,
        max_length=max_length,
        not_trained=found.not_trained,
        tokens=example.num_tokens,
        eligible=example.num_eligible,
        kept=example.num_kept,
        share=example.num_kept / example.num_eligible if example.num_eligible else None,
        drops=example.drops,
        left_out=[each for each in found.left_out if each.turn is None],
        lessons=found.lessons,
        rows=example.rows,
    )


def _cut(shown: Shown) -> Shown:
    """As much of the text as a screen may be given: a learn model's code may have made any amount of it."""
    left, rows = _TEXT_MAX, list[RenderedRow]()
    for row in shown.rows:
        segments = list[Segment]()
        for segment in row.segments:
            text = segment.text
            if len(text) > left:
                text = f"{text[:left]}\n[{len(text) - left:,} more characters here: --json shows them]\n"
            segments.append(replace(segment, text=text))
            left = max(0, left - len(segment.text))
        rows.append(replace(row, segments=tuple(segments)))
    return replace(shown, rows=tuple(rows))


def _coloured(shown: Shown) -> Iterator[Text]:
    yield from map(Text, _head(shown))
    words: dict[State, str] = {"kept": "counts", "dropped": "dropped", "prompt": "context"}
    yield Text("  ").join(Text(word, style=_STYLES[state]) for state, word in words.items())
    for number, row in enumerate(shown.rows, 1):
        yield Text(_row_title(shown, number, row), style="bold")
        yield Text("").join(
            Text(visible(segment.text), style=_STYLES[segment.state]) for segment in row.segments
        )
    yield from map(Text, _totals(shown))


def _plain(shown: Shown) -> Iterator[Text]:
    yield from map(Text, _head(shown))
    yield Text("lines with + count, lines with - are dropped, the others are context; a new line")
    yield Text("begins wherever that changes")
    for number, row in enumerate(shown.rows, 1):
        yield Text(_row_title(shown, number, row))
        yield from map(Text, rows_of((row,)))
    yield from map(Text, _totals(shown))


def rows_of(rows: Sequence[RenderedRow]) -> Iterator[str]:
    """The text of rows, each line with a mark of what becomes of it."""
    for row in rows:
        for segment in row.segments:
            yield from _marked(segment)


def _marked(segment: Segment) -> Iterator[str]:
    text = visible(segment.text)
    for line in text.removesuffix("\n").split("\n"):
        yield f"{_MARKS[segment.state]}{line}"


def _head(shown: Shown) -> Iterator[str]:
    task = f", task {visible(shown.task_id)}" if shown.task_id else ""
    yield f"episode {shown.episode}{task}"
    if shown.not_trained:
        yield f"no training set takes it: {shown.not_trained}; if one did:"
    yield from map(visible, sentences(shown.lessons, learn_model=shown.learn_model))
    yield ""


def _row_title(shown: Shown, number: int, row: RenderedRow) -> str:
    title = f"--- row {number} of {len(shown.rows)}, {row.num_tokens} tokens"
    return title + ("" if row.is_trained else ", left out: nothing in it counts")


def _totals(shown: Shown) -> Iterator[str]:
    rows = f"{len(shown.rows)} row{'' if len(shown.rows) == 1 else 's'}"
    yield ""
    yield f"tokens    {shown.tokens} in {rows}, at most {shown.max_length} each"
    yield f"eligible  {shown.eligible} of the assistant's"
    share = "" if shown.share is None else f", {100 * shown.share:.1f} % of the eligible"
    yield f"kept      {shown.kept}{share}"
    yield "not learned"
    for drop in shown.drops:
        turns = f" (turns {', '.join(map(str, drop.turns))})" if drop.turns else ""
        yield f"  {drop.num_tokens:>7}  {visible(drop.reason)}{turns}"
        if drop.advice:
            yield f"           {drop.advice}"
    for each in shown.left_out:
        yield f"        -  {visible(each.what)}: {each.reason}"
