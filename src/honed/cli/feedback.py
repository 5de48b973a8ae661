"""`honed feedback`: what a person or a script says about attempts, days later if need be."""

import csv
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from honed.cli.asking import (
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    ConfigFile,
    ask_daemon,
    config_from,
    leave,
    print_json,
    with_store,
)
from honed.cli.figures import said_by, worth
from honed.cli.lessons import sentences
from honed.cli.printing import say
from honed.client.events import outcome_event
from honed.config import Config
from honed.domain.episode import Episode
from honed.errors import HonedError, ValidationError
from honed.ports import Lesson
from honed.stores import SqlStore

_BATCH: Final = 200
_NAMES: Final = ("receipt_id", "task_id", "group_id", "session_id", "episode_id")
_TRUTH: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

Told = dict[str, Any]


def add_to(app: typer.Typer) -> None:
    """Register the command of this file."""
    app.command(rich_help_panel="Learning")(feedback)


def feedback(
    receipt: Annotated[str | None, typer.Option(help="The call, by its receipt.")] = None,
    task: Annotated[str | None, typer.Option(help="The attempt.")] = None,
    group: Annotated[str | None, typer.Option(help="All attempts of a group.")] = None,
    episode: Annotated[
        str | None, typer.Option(help="One episode, as `honed episodes` names it.")
    ] = None,
    success: Annotated[
        bool | None, typer.Option("--success/--failure", help="Whether the task was done.")
    ] = None,
    score: Annotated[float | None, typer.Option(min=0, max=1, help="How well, 0..1.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why it failed.")] = None,
    comment: Annotated[str | None, typer.Option(help="Words for people.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="File with the answer as it should have been; - is stdin.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    version: Annotated[str | None, typer.Option(help="Which version of the source.")] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", help="Identity: said again under it, it is known.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Many at once: JSON lines, or CSV with a header.")
    ] = None,
    listed: Annotated[
        str | None, typer.Option("--list", metavar="EPISODE", help="What was said of an episode.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how an attempt went, or what the answer should have been."""
    found = config_from(config)
    if listed is not None:
        _list(found, listed, as_json)
        return
    if file is not None:
        told = list(_rows(file))
    else:
        names = {"receipt_id": receipt, "task_id": task, "group_id": group, "episode_id": episode}
        said: Told = {"success": success, "score": score, "reason": reason, "comment": comment}
        said |= {"source": source, "version": version, "event_id": event_id}
        said["demonstration"] = None if answer is None else text_of(answer)
        told = [{key: value for key, value in (names | said).items() if value is not None}]
        if (num := sum(name is not None for name in names.values())) != 1:
            about = "expected one of --receipt, --task, --group, --episode, or --file"
            raise _wrong(f"{about}; found {num or 'none'} of them")
        if not {"success", "score", "comment", "demonstration"} & told[0].keys():
            raise _wrong(
                "nothing is said: expected --success, --failure, --score, --comment or --answer"
            )
    send(found, told, as_json)


def send(config: Config, told: list[Told], as_json: bool) -> None:
    """Tell the daemon, print what became of each, and leave."""
    outcomes = [_event(config, fields) for fields in told]
    taken: list[dict[str, Any]] = []
    for start in range(0, len(outcomes), _BATCH):
        body = {"outcomes": outcomes[start : start + _BATCH]}
        taken += ask_daemon(config, "POST", "/v1/feedback", body)["outcomes"]
    if as_json:
        print_json(taken)
    else:
        for outcome, became in zip(outcomes, taken, strict=True):
            say(f"{_object(outcome)}: {_sentence(outcome, became)}")
    raise typer.Exit(EXIT_FAILED if any(t["became"] == "refused" for t in taken) else 0)


def _event(config: Config, fields: Told) -> Told:
    """The outcome event of what was told; leaves where it names an episode that is not there."""
    if episode_id := fields.get("episode_id"):
        with_store(config, lambda store: store.get_episode(episode_id))
    try:
        return outcome_event(**fields)
    except (ValueError, TypeError) as error:
        raise _wrong(str(error)) from None


def _rows(path: Path) -> Iterator[Told]:
    """What a file says; a row without an `event_id` gets one from its content, so twice is once."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        leave(HonedError(f"{path} cannot be read: {error}"))
    read = _csv_rows(text) if path.suffix == ".csv" else _json_rows(text)
    try:
        for number, row in read:
            if not any(row.get(name) for name in _NAMES):
                raise ValidationError(f"line {number} names no {', '.join(_NAMES)}")
            digest = hashlib.blake2b(
                msgspec.json.encode(row, order="deterministic"), digest_size=16
            )
            yield {"event_id": digest.hexdigest()} | row
    except (ValidationError, msgspec.MsgspecError) as error:
        leave(HonedError(f"{path}: {error}", advice="nothing was sent"))


def _json_rows(text: str) -> Iterator[tuple[int, Told]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError as error:
                raise ValidationError(f"line {number}: {error}") from None


def _csv_rows(text: str) -> Iterator[tuple[int, Told]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    for row in reader:
        number = reader.line_num
        if None in row:
            raise ValidationError(f"line {number} has more values than the header has names")
        told: Told = {name: value for name, value in row.items() if value}
        try:
            if "success" in told:
                told["success"] = _TRUTH[told["success"].lower()]
            if "score" in told:
                told["score"] = float(told["score"])
        except (KeyError, ValueError) as error:
            raise ValidationError(f"line {number}: {error} is no success or score") from None
        yield number, told


def text_of(path: str) -> str:
    """What a file holds, - being stdin, without the newline at its end."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        leave(HonedError(f"{path} cannot be read: {error}"))
    return text.removesuffix("\n")


def _object(outcome: Told) -> str:
    name = next(name for name in _NAMES if outcome.get(name))
    return f"{name.removesuffix('_id')} {outcome[name]}"


def _sentence(outcome: Told, taken: dict[str, Any]) -> str:
    became = taken["became"]
    if became == "refused":
        return f"refused: {taken['message']}"
    if became == "withheld":
        return "not stored: the rules of consent drop it"
    head = "stored" if became == "stored" else "known already"
    reach = taken["reach"]
    if reach == "episodes":
        return f"{head}, episode {', '.join(taken['episode_ids'])}"
    if reach == "open":
        return f"{head}; the attempt is open and gets it when it ends"
    if _object(outcome).startswith("group "):
        return f"{head}, but no attempt of the group has ended yet: it is about none"
    return f"{head}, but nothing of that name has come yet; it waits for it"


def _list(config: Config, episode_id: str, as_json: bool) -> None:
    async def read(store: SqlStore) -> tuple[Episode, list[Any], list[Lesson]]:
        told = (await store.provenance([episode_id]))[episode_id]
        lessons = await store.lessons.of(episode_id)
        return await store.get_episode(episode_id), list(told.verdicts), lessons

    episode, verdicts, lessons = with_store(config, read)
    answers = episode.demonstrations
    if as_json:
        said = {"outcome": episode.outcome, "verdicts": verdicts, "demonstrations": answers}
        print_json(said | {"lessons": lessons})
        return
    for verdict in verdicts:
        who = said_by(verdict.source, verdict.version, learn_model=episode.learn_model)
        words = f": {verdict.comment}" if verdict.comment else ""
        say(f"{worth(verdict.outcome)}  {who}{words}")
    for record in answers:
        say(
            f"a better answer  {said_by(record.source, record.version, learn_model=episode.learn_model)}"
        )
    say(f"counts: {worth(episode.outcome)}")
    for sentence in sentences(lessons, learn_model=episode.learn_model):
        say(sentence)


def _wrong(message: str) -> typer.Exit:
    say(f"honed: {message}", err=True)
    return typer.Exit(EXIT_USAGE)
