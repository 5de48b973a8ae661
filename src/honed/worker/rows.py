"""Conversations to rows of tokens, with labels on the agent's own tokens alone.

Why not TRL's `assistant_only_loss`: it needs `{% generation %}` markers, which most published
templates lack, cannot leave out single turns, and takes every turn from one rendering of the whole
conversation (worker/renderings.py says why that is wrong).

Legend: T tokens of a row, labels -100 where a token does not count.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Final

from honed.domain.job import TooLong
from honed.worker.examples import Example
from honed.worker.renderings import Rendering, TurnSpan, renderings
from honed.worker.served import ServedTemplate

IGNORED: Final = -100
"""The label of a token that does not count (torch's `ignore_index`)."""
CUT: Final = "beyond max_length"
DROPPED: Final = "of a conversation beyond max_length"

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one rendering, and which of them count."""

    input_ids: Ids
    labels: Ids
    """As long as `input_ids`; the token itself where it counts, else -100."""
    example: int = 0
    """Line of the data file, from 0."""

    @property
    def num_targets(self) -> int:
        """Tokens that count; the first of a row is predicted from nothing and never does."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(slots=True)
class Prepared:
    """The rows of some conversations, and what did not become part of one."""

    rows: list[Row] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Tokens of target turns that do not count, by reason."""
    advice: dict[str, str] = field(default_factory=dict)
    """What to do about a reason, where something can be done."""

    @property
    def num_targets(self) -> int:
        """Tokens that count."""
        return sum(row.num_targets for row in self.rows)


def prepare(
    examples: Sequence[Example], tokenizer: Any, *, max_length: int, too_long: TooLong = "cut"
) -> Prepared:
    """Tokenise conversations; what is left out is counted with its reason.

    Of one that is longer than `max_length`, `cut` keeps the replies that fit whole, each with all that was said before
    it; `drop` keeps none. A row without a token to learn from is left out.

    Raises:
        TrainingError: the chat template cannot be read.
    """
    template = ServedTemplate.of(tokenizer)
    prepared = Prepared()
    for number, example in enumerate(examples):
        found = renderings(example, template)
        for turn, refusal in found.refused.items():
            prepared.dropped[refusal.reason] += num_tokens(example.messages[turn], tokenizer)
            if refusal.advice:
                prepared.advice[refusal.reason] = refusal.advice
        whole = [tokenised(rendering, tokenizer) for rendering in found.texts]
        dropped = too_long == "drop" and any(is_too_long(labels, max_length) for _, labels in whole)
        for ids, labels in whole:
            end = 0 if dropped else num_fitting(labels, max_length)
            row = Row(ids[:end], labels[:end], number)
            if num_cut := sum(label != IGNORED for label in labels[end:]):
                prepared.dropped[DROPPED if dropped else CUT] += num_cut
            if row.num_targets:
                prepared.rows.append(row)
    return prepared


def rows_of(examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[Row]:
    """The rows of `prepare` alone."""
    return prepare(examples, tokenizer, max_length=max_length).rows


def is_too_long(labels: Ids, max_length: int) -> bool:
    """Whether a token that counts lies beyond it."""
    return any(label != IGNORED for label in labels[max_length:])


def num_fitting(labels: Ids, max_length: int) -> int:
    """How many tokens of a row stay, so that it ends with a whole reply where it does not fit: never inside one."""
    if len(labels) <= max_length:
        return len(labels)
    end = at = 0
    for counts, run in groupby(labels, key=lambda label: label != IGNORED):
        at += sum(1 for _ in run)
        if at > max_length:
            return end
        if counts:
            end = at
    return end


def num_tokens(message: dict[str, Any], tokenizer: Any) -> int:
    """About how many tokens a turn has that no template renders."""
    content = message.get("content") or ""
    texts = [content] if isinstance(content, str) else [part.get("text") or "" for part in content]
    for call in message.get("tool_calls") or ():
        texts += [call["function"]["name"], str(call["function"].get("arguments", ""))]
    return sum(len(encode(tokenizer, text)) for text in texts if text)


def tokenised(rendering: Rendering, tokenizer: Any) -> tuple[Ids, Ids]:
    """The tokens of a text and their labels: the tokens inside the spans count.

    The text is tokenised whole, as a server does it. A token across the beginning of a span belongs
    to the prompt. Text after the last special token of a span (ChatML's newline) is the template's
    and does not count. Where a reply has no end of its own, the special token that begins the next
    turn is what the model ends it with (GLM-4), and counts.
    """
    whole = encode(tokenizer, rendering.text)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    labels = [IGNORED] * len(whole)
    for start, end in token_spans(rendering.text, rendering.spans, whole, tokenizer):
        end = _to_its_end(whole, start, end, special, tokenizer)
        labels[start:end] = whole[start:end]
    return whole, labels


def token_spans(
    text: str, spans: Sequence[TurnSpan], whole: Ids, tokenizer: Any
) -> Iterator[tuple[int, int]]:
    """The spans of a text in tokens."""
    cuts = [0, *(cut for span in spans for cut in (span.start, span.end)), len(text)]
    pieces = [encode(tokenizer, text[a:b]) for a, b in pairwise(cuts)]
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    if [token for piece in pieces for token in piece] != whole:
        # A token lies across a cut, or the tokenizer marks the beginning of a text: count along the
        # prefixes.
        ends = [
            _cut(encode(tokenizer, text[:at]), whole, after=i % 2 == 1) for i, at in enumerate(cuts)
        ]
    return zip(ends[1::2], ends[2::2], strict=False)


def encode(tokenizer: Any, text: str) -> Ids:
    """The tokens of a rendered text; the template has written its special tokens itself."""
    ids: Ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _to_its_end(ids: Ids, start: int, end: int, special: set[int], tokenizer: Any) -> int:
    """Where the tokens of a reply end that the model writes."""
    last = next((i for i in range(end - 1, start - 1, -1) if ids[i] in special), None)
    if last is not None and not tokenizer.decode(ids[last + 1 : end]).strip():
        return last + 1
    begins_next = end < len(ids) and ids[end] in special and ids[end] != tokenizer.bos_token_id
    return end + 1 if begins_next else end


def _cut(prefix: Ids, whole: Ids, *, after: bool) -> int:
    """Where the tokens of a prefix end in the whole; a token across the cut counts to the prefix if
    `after`.
    """
    same = next((i for i, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), None)
    if same is None:
        return min(len(prefix), len(whole))
    return same + 1 if after else same
