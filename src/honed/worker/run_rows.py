"""The rows of a stand-alone run: conversations and answers as the daemon's trainings have them, and whole texts.

row                    what counts
conversation           the assistant's own tokens
pair, labelled answer  the tokens of the answers
whole text             all of it but the token that begins every text
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from honed.domain.recipe import recipe
from honed.domain.train_settings import TrainSettings
from honed.domain.trained_model import Method
from honed.errors import EmptyDataError, TrainingError
from honed.worker.examples import read_lessons
from honed.worker.material import AnyRow, Material, Plan, material_of
from honed.worker.method import choose
from honed.worker.preferences import LabelledRow, PairRow
from honed.worker.rows import CUT, IGNORED, Ids, Row, encode


class Read(NamedTuple):
    """A data file as the run learns from it; its rows are made when the length is known."""

    method: Method
    settings: TrainSettings
    num_examples: int
    texts: Sequence[str]
    """Of whole texts; else the plan says what there is."""
    plan: Plan | None

    def material(self, tokenizer: Any, settings: TrainSettings) -> Material:
        """The rows.

        Raises:
            EmptyDataError: there are none.
        """
        if self.plan is None:
            return _texts(self.texts, tokenizer, settings.max_length)
        made = material_of(self.plan, tokenizer, settings)
        return made._replace(rows=[with_one_bos(row, tokenizer) for row in made.rows])


def read_file(path: Path, settings: TrainSettings) -> Read:
    """What a data file holds, and the settings of its method.

    Raises:
        EmptyDataError: it cannot teach.
        TrainingError: it cannot be read, or does not fit the method.
    """
    texts = _read_texts(path)
    if texts:
        if settings.method not in ("auto", "sft"):
            raise TrainingError(
                f"method {settings.method} needs answers to compare, and the data are {len(texts)} whole texts",
                advice='set train.method to "auto", which goes by what the data hold',
            )
        whole = replace(settings, method="sft")
        return Read("sft", whole, len(texts), texts, None)
    lessons = read_lessons(path)
    choice = choose(settings.method, lessons)
    found = recipe(settings, choice.method)
    plan = Plan(
        choice.method,
        choice.reason,
        found.settings,
        found.chosen,
        choice.lessons,
        choice.lines,
        len(lessons),
    )
    return Read(choice.method, found.settings, len(lessons), (), plan)


def _read_texts(path: Path) -> list[str]:
    """The texts of a file whose first line is one; nothing of any other."""
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(next(file, "{}"))
            if "text" not in first:
                return []
            return [first["text"], *(json.loads(line)["text"] for line in file)]
    except OSError as error:
        raise TrainingError(f"training file {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"training file {path} is not of texts alone: {type(error).__name__}: {error}"
        ) from error


def _texts(texts: Sequence[str], tokenizer: Any, max_length: int) -> Material:
    material = Material([], dropped=Counter(), advice={})
    rows: list[AnyRow] = []
    for number, ids in enumerate(_encoded(texts, tokenizer)):
        row = _whole(ids, tokenizer, number)
        if (beyond := len(row.input_ids) - max_length) > 0:
            material.dropped[CUT] += beyond
            row = Row(row.input_ids[:max_length], row.labels[:max_length], number)
        if row.num_targets:
            rows.append(row)
    if not rows:
        raise EmptyDataError(
            f"none of the {len(texts)} texts has two tokens",
            advice="check dataset.text_field",
        )
    return material._replace(rows=rows)


def text_row(text: str, tokenizer: Any, number: int = 0) -> Row:
    """A preformatted text: exactly one token that begins it, where the model has one, and one that ends it."""
    return _whole(encode(tokenizer, text), tokenizer, number)


def _whole(ids: Ids, tokenizer: Any, number: int) -> Row:
    special = set(tokenizer.all_special_ids)
    ends = tokenizer.decode(ids).rstrip()
    closed = any(ends.endswith(tokenizer.decode([each])) for each in special)
    if not closed and tokenizer.eos_token_id is not None:
        ids = [*ids, tokenizer.eos_token_id]
    row = with_one_bos(Row(ids, list(ids), number), tokenizer)
    assert isinstance(row, Row)
    return row


def _encoded(texts: Sequence[str], tokenizer: Any) -> Sequence[Ids]:
    """The tokens of each, by as many threads as RAYON_NUM_THREADS says, which is the run's `num_proc`.

    Measured: 8 MB of text in 1.2 s by two threads, in 1.9 s by one.
    """
    with _in_threads():
        ids: list[Ids] = tokenizer(list(texts), add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
    return ids


@contextmanager
def _in_threads() -> Iterator[None]:
    """Let the tokenizer use threads; beside torch's, later, they would be in the way."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def with_one_bos(row: AnyRow, tokenizer: Any) -> AnyRow:
    """A row with exactly one token that begins it, where the tokenizer puts one before every text."""
    bos = begins_with(tokenizer)
    match row:
        case PairRow():
            chosen, rejected = (
                tuple(_begun(text, bos) for text in side) for side in (row.chosen, row.rejected)
            )
            return PairRow(chosen, rejected, row.example)
        case LabelledRow():
            return LabelledRow(_begun(row.row, bos), row.is_good, row.example)
        case Row():
            return _begun(row, bos)


def begins_with(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before every text; None when it puts none."""
    bos: int | None = tokenizer.bos_token_id
    ids: Ids = tokenizer("a")["input_ids"]
    return bos if bos is not None and ids[:1] == [bos] else None


def _begun(row: Row, bos: int | None) -> Row:
    if bos is None:
        return row
    num = next((i for i, token in enumerate(row.input_ids) if token != bos), 0)
    if num == 1 and row.labels[0] == IGNORED:
        return row
    return Row([bos, *row.input_ids[num:]], [IGNORED, *row.labels[num:]], row.example)
