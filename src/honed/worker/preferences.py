"""Answers that are compared or labelled, to rows of tokens.

They are tokenised as conversations are (`rows`): by the served template, with labels on the assistant's own tokens
behind the prompt. An answer is judged as a whole, so one that does not fit into `max_length` is left out.

Where the template shows the turns of one answer in several texts (`renderings` says why), each text of a labelled
answer is a row with its label; in a pair, what is compared are the sums over all texts of an answer.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from honed.worker.examples import Example, Labelled, Preference
from honed.worker.rows import IGNORED, Row, prepare

SAME: Final = "of a pair whose two answers are the same"
PARTNER: Final = "of a pair whose other answer cannot be learned"


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two answers to one prompt, each in one text or more; the labels are on the answers."""

    chosen: tuple[Row, ...]
    rejected: tuple[Row, ...]
    example: int = 0
    """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens of both answers."""
        return sum(row.num_targets for row in (*self.chosen, *self.rejected))


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A text with the labels on its answer, which is good or bad."""

    row: Row
    is_good: bool
    example: int = 0
    """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens of the answer."""
        return self.row.num_targets

    @property
    def start(self) -> int:
        """Where the answer begins."""
        return next(i for i, label in enumerate(self.row.labels) if label != IGNORED)


@dataclass(slots=True)
class Compared:
    """The rows of some pairs or labelled answers, and what did not become part of one."""

    rows: list[PairRow] | list[LabelledRow] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Tokens of answers that do not count, by reason."""
    advice: dict[str, str] = field(default_factory=dict)
    """What to do about a reason, where something can be done."""


def prepare_pairs(
    preferences: Sequence[Preference], tokenizer: Any, *, max_length: int
) -> Compared:
    """Tokenise pairs; one is left out whole when either answer is, or when both are the same.

    Raises:
        TrainingError: the chat template cannot be read.
    """
    sides = [side for each in preferences for side in (each.chosen, each.rejected)]
    found, compared = _rows(sides, tokenizer, max_length=max_length)
    pairs: list[PairRow] = []
    for number in range(len(preferences)):
        chosen, rejected = (tuple(found.get(2 * number + side, ())) for side in (0, 1))
        pair = PairRow(chosen, rejected, number)
        if not (chosen and rejected):
            compared.dropped[PARTNER] += pair.num_targets
        elif [row.input_ids for row in chosen] == [row.input_ids for row in rejected]:
            compared.dropped[SAME] += pair.num_targets
        else:
            pairs.append(pair)
    compared.rows = pairs
    return compared


def prepare_labelled(
    answers: Sequence[Labelled], tokenizer: Any, *, max_length: int, seed: int
) -> Compared:
    """Tokenise labelled answers, in an order drawn by the seed: the trainer takes them as they stand.

    Raises:
        TrainingError: the chat template cannot be read.
    """
    texts, compared = _rows([each.answered for each in answers], tokenizer, max_length=max_length)
    found = [
        LabelledRow(row, answers[number].is_good, number)
        for number, rows in sorted(texts.items())
        for row in rows
    ]
    random.Random(seed).shuffle(found)
    compared.rows = found
    return compared


def _rows(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int
) -> tuple[dict[int, list[Row]], Compared]:
    """The texts of each example that fits, and the account of the others."""
    prepared = prepare(examples, tokenizer, max_length=max_length, too_long="drop")
    by_example: dict[int, list[Row]] = {}
    for row in prepared.rows:
        by_example.setdefault(row.example, []).append(row)
    return by_example, Compared(dropped=prepared.dropped, advice=prepared.advice)
