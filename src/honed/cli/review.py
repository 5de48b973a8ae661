"""`honed review`: what the next run would learn from, and what people do about it before it runs."""

import getpass
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import anyio
import msgspec
import typer

from honed.cli.asking import (
    AsJson,
    ConfigFile,
    ask_daemon,
    config_from,
    daemon_answers,
    leave,
    print_json,
    with_store,
)
from honed.cli.feedback import send, text_of
from honed.cli.figures import naming
from honed.cli.printing import say
from honed.cli.printing import show as show_table
from honed.cli.review_words import head, remarks, samples, tallies
from honed.config import Config
from honed.domain.job import RenderJob, RenderResult
from honed.domain.rendered import RenderedExample
from honed.errors import ControlError, HonedError
from honed.ports import Preview, RemarkKind
from honed.processors import run_job
from honed.rooms import approval_of, learn_models_of
from honed.stores import SqlStore
from honed.training_sets import load_or_make_secret

_PANEL: Final = "Learning"

By = Annotated[str | None, typer.Option("--by", help="Who says so; default: the user's name.")]
Episodes = Annotated[
    list[str], typer.Argument(metavar="EPISODE...", help="Their ids; `honed episodes` lists them.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--learn-model", help="Which, where learn.model names several; default: the first."
    ),
]


class Reviewed(msgspec.Struct, frozen=True, kw_only=True):
    """What `honed review --json` prints."""

    preview: Preview
    rendered: list[RenderedExample] | None
    """The shown rows as they would be trained on, with what counts in the loss; None when that was not asked for, or
    cannot be made here."""
    not_rendered: str | None
    """Why not."""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this file."""
    review = typer.Typer(invoke_without_command=True)
    review.callback()(show)
    review.command()(drop)
    review.command()(keep)
    review.command()(mark)
    review.command()(correct)
    review.command()(approve)
    review.command()(reject)
    app.add_typer(review, name="review", rich_help_panel=_PANEL)


def show(
    context: typer.Context,
    config: ConfigFile = None,
    as_json: AsJson = False,
    rows: Annotated[
        int, typer.Option(min=0, max=1_000, help="How many rows of the training file to show.")
    ] = 3,
    raw: Annotated[
        bool, typer.Option("--raw", help="Show rows as they are written, not as they are trained.")
    ] = False,
    learn_model: Model = None,
) -> None:
    """Show what the next run would learn from, or the run that waits for you; then decide.

    Counts, reasons and rows come from the training set itself, which is built and cleared away. With
    `learn.review = true` in the config no run starts before `approve`.
    """
    if context.invoked_subcommand is not None:
        if config is not None or as_json or raw or learn_model is not None:
            raise typer.BadParameter("options stand behind the command, not before it")
        return
    found = config_from(config)
    preview = _preview(found, rows, learn_model)
    rendered, why = _rendered(found, preview, raw=raw)
    if as_json:
        print_json(Reviewed(preview=preview, rendered=rendered, not_rendered=why))
        return
    several = len(learn_models_of(found)) > 1
    for line in head(preview, naming(preview.learn_model) if several else ""):
        say(line)
    show_table(tallies(preview))
    for line in remarks(preview):
        say(line)
    for line in samples(preview, rendered, why):
        say(line)


def drop(
    episodes: Episodes,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove episodes from every training set from now on; nothing is deleted."""
    _remark(config, episodes, "drop", "dropped", by=by, note=note, as_json=as_json)


def keep(
    episodes: Episodes,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Put dropped episodes back."""
    _remark(config, episodes, "keep", "taken again", by=by, note=note, as_json=as_json)


def mark(
    episodes: Episodes,
    note: Annotated[str | None, typer.Option(help="Words for people.")] = None,
    label: Annotated[str | None, typer.Option(help="A word to count by.")] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say something about episodes; that changes no training set."""
    if note is None and label is None:
        raise typer.BadParameter("expected --note, --label or both")
    _remark(config, episodes, "note", "marked", by=by, note=note, label=label, as_json=as_json)


def correct(
    episode: Annotated[str, typer.Argument(metavar="EPISODE", help="Its id.")],
    answer: Annotated[
        str, typer.Option(help="File with the answer as it should have been; - is stdin.")
    ],
    note: Annotated[str | None, typer.Option(help="Words for people.")] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what the answer should have been; it is what is learned then (as by `honed feedback`)."""
    text, who = text_of(answer), by or me()
    said = {"episode_id": episode, "demonstration": text, "source": who, "comment": note}
    said = {name: value for name, value in said.items() if value is not None}
    identity = hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=16)
    send(config_from(config), [said | {"event_id": identity.hexdigest()}], as_json)


def approve(
    digest: Annotated[
        str | None,
        typer.Argument(metavar="[DIGEST]", help="Of what you saw; refused when it has changed."),
    ] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    learn_model: Model = None,
) -> None:
    """Start the run that waits, on exactly what was shown."""
    body = {"said_by": by or me(), "data_digest": digest, "learn_model": learn_model}
    answer = ask_daemon(config_from(config), "POST", "/v1/review/approve", body)
    _tell(answer, f"run {answer['run_id']} may run", as_json)


def reject(
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    by: By = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    learn_model: Model = None,
) -> None:
    """Stop the run that waits before it begins; the same episodes do not ask for one again."""
    body = {"said_by": by or me(), "note": note, "learn_model": learn_model}
    answer = ask_daemon(config_from(config), "POST", "/v1/review/reject", body)
    _tell(answer, f"run {answer['run_id']} is rejected", as_json)


def _remark(
    config: Path | None,
    episodes: Sequence[str],
    kind: RemarkKind,
    done: str,
    *,
    by: str | None,
    note: str | None,
    label: str | None = None,
    as_json: bool,
) -> None:
    found = config_from(config)
    who = by or me()
    if daemon_answers(found):
        body = {"episodes": list(episodes), "kind": kind, "said_by": who}
        answer = ask_daemon(
            found, "POST", "/v1/review/remark", body | {"note": note, "label": label}
        )
    else:

        async def write(store: SqlStore) -> int:
            approval = approval_of(found, learn_models_of(found)[0], store, b"")
            return await approval.remark(episodes, kind, said_by=who, note=note, label=label)

        answer = {"changed": with_store(found, write)}
    num = answer["changed"]
    already = f" ({len(episodes) - num} already)" if num < len(episodes) else ""
    _tell(answer, f"{num} episode{'' if num == 1 else 's'} {done}{already}", as_json)


def _preview(config: Config, rows: int, learn_model: str | None) -> Preview:
    if daemon_answers(config):
        which = f"&learn_model={quote(learn_model)}" if learn_model else ""
        answer = ask_daemon(config, "GET", f"/v1/review?rows={rows}{which}")
        try:
            return msgspec.convert(answer, Preview)
        except msgspec.ValidationError as error:
            advice = "is the daemon another version of honed than this one? Start it anew"
            leave(ControlError(f"the daemon's preview cannot be read: {error}", advice=advice))

    async def read(store: SqlStore) -> Preview:
        models = learn_models_of(config)
        model = next((each for each in models if learn_model in (None, each.name)), None)
        if model is None:
            known = ", ".join(each.name for each in models)
            raise HonedError(f"nothing learns by {learn_model!r} here: expected one of {known}")
        secret = load_or_make_secret(config.data_dir / "secret.key", may_make=False)
        approval = approval_of(config, model, store, secret)
        approval.now = await store.reviews.waiting(config.scenario, model.name)
        return await approval.preview(num_rows=rows)

    return with_store(config, read)


def _rendered(
    config: Config, preview: Preview, *, raw: bool
) -> tuple[list[RenderedExample] | None, str | None]:
    """The shown rows as the base model would be trained on them, or why not."""
    if raw or not preview.rows:
        return None, None
    if preview.shape != "sft":
        return None, f"they are of the shape {preview.shape}"
    if config.base_model is None:
        return None, "base_model is not set"
    try:
        return anyio.run(_render, config, config.base_model, preview), None
    except HonedError as error:
        return None, str(error)


async def _render(config: Config, base_model: str, preview: Preview) -> list[RenderedExample]:
    """The very lines of the training file go to the very code that makes rows of them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "rows.jsonl"
        data.write_text("".join(f"{row.data}\n" for row in preview.rows))
        result = await run_job(
            RenderJob(
                base_model=base_model,
                data_path=str(data),
                max_length=config.train.max_length,
                too_long=config.learn.too_long,
                result_path=str(folder / "result.json"),
            ),
            folder,
        )
    assert isinstance(result, RenderResult)
    return list(result.examples)


def _tell(answer: Any, sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        say(sentence)


def me() -> str:
    """Who types; leaves with a message where nobody knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        leave(HonedError("nobody knows who you are", advice="say it with --by"))
