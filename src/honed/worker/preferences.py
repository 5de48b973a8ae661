"""Answers that are compared or labelled, to rows of tokens.

They are tokenised as conversations are (`rows`): by the served template, with labels on the assistant's own tokens
behind the prompt. An answer is judged as a whole, so one of which a part would be missing is left out: it does not fit
into `max_length`, or the template shows its turns in several texts, of which none holds it all.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from honed.worker.examples import Example, Labelled, Preference
from honed.worker.rows import IGNORED, Row, prepare

SEVERAL: Final = "of an answer whose turns the chat template shows in several texts"
SAME: Final = "of a pair whose two answers are the same"
PARTNER: Final = "of a pair whose other answer cannot be learned"


@dataclass(frozen=True, slots=True)
class PairRow:
    """Two texts that begin alike; the labels are on the answers."""

    chosen: Row
    rejected: Row
    example: int = 0
    """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens of both answers."""
        return self.chosen.num_targets + self.rejected.num_targets


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
    whole, compared = _whole(sides, tokenizer, max_length=max_length)
    pairs: list[PairRow] = []
    for number in range(len(preferences)):
        chosen, rejected = whole.get(2 * number), whole.get(2 * number + 1)
        if chosen is None or rejected is None:
            for row in filter(None, (chosen, rejected)):
                compared.dropped[PARTNER] += row.num_targets
        elif chosen.input_ids == rejected.input_ids:
            compared.dropped[SAME] += chosen.num_targets + rejected.num_targets
        else:
            pairs.append(PairRow(chosen, rejected, number))
    compared.rows = pairs
    return compared


def prepare_labelled(
    answers: Sequence[Labelled], tokenizer: Any, *, max_length: int, seed: int
) -> Compared:
    """Tokenise labelled answers, in an order drawn by the seed: the trainer takes them as they stand.

    Raises:
        TrainingError: the chat template cannot be read.
    """
    whole, compared = _whole([each.answered for each in answers], tokenizer, max_length=max_length)
    found = [LabelledRow(row, answers[i].is_good, i) for i, row in sorted(whole.items())]
    random.Random(seed).shuffle(found)
    compared.rows = found
    return compared


def _whole(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int
) -> tuple[dict[int, Row], Compared]:
    """The row of each example that one row holds, and the account of the others."""
    prepared = prepare(examples, tokenizer, max_length=max_length, too_long="drop")
    compared = Compared(dropped=prepared.dropped, advice=prepared.advice)
    by_example: dict[int, list[Row]] = {}
    for row in prepared.rows:
        by_example.setdefault(row.example, []).append(row)
    whole = {}
    for number, rows in by_example.items():
        if len(rows) == 1:
            whole[number] = rows[0]
        else:
            compared.dropped[SEVERAL] += sum(row.num_targets for row in rows)
            compared.advice[SEVERAL] = (
                "compare answers of one turn, or choose a base model whose chat template shows past replies as they "
                "were written"
            )
    return whole, compared
