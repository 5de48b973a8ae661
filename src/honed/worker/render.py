"""Shows conversations as training takes them: which tokens count, and why the others do not."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from honed.domain.job import RenderJob, RenderResult
from honed.domain.rendered import Drop, RenderedExample, RenderedRow, Segment, State
from honed.worker.base_model import base_folder, load_tokenizer
from honed.worker.examples import Example, read_examples
from honed.worker.renderings import Rendering, TurnSpan, renderings, reply_of, with_fitting_ids
from honed.worker.rows import (
    CUT,
    DROPPED,
    IGNORED,
    encode,
    is_too_long,
    num_fitting,
    num_tokens,
    token_spans,
    tokenised,
)
from honed.worker.served import ServedTemplate, UnservableError

NOT_ASSISTANT: Final = "not the assistant's"
ROW_LEFT_OUT: Final = "around replies that do not count: this text is left out whole"
GLUE: Final = "the template's own text after the end of a turn"
OPENING: Final = "opens the conversation: it answers nothing"
NOT_CHOSEN: Final = "left out by the learn model"

_Fate = tuple[State, int | None, str | None]
"""What becomes of a token: its state, turn and reason."""


def render(job: RenderJob) -> RenderResult:
    """Do a RenderJob.

    Raises:
        TrainingError: base model or data cannot be read.
    """
    tokenizer = load_tokenizer(base_folder(job.base_model))
    template = ServedTemplate.of(tokenizer)
    examples = read_examples(Path(job.data_path))
    left_out = (*job.left_out, *({} for _ in examples[len(job.left_out) :]))
    return RenderResult(
        examples=tuple(
            _Showing(example, template, tokenizer, job, reasons).show()
            for example, reasons in zip(examples, left_out, strict=True)
        )
    )


class _Unlearned(NamedTuple):
    """A reply that is no target: where it would stand, and why it is none."""

    text: str
    span: TurnSpan | None
    reason: str
    num_tokens: int


class _Showing:
    """One conversation while it is taken apart."""

    def __init__(
        self,
        example: Example,
        template: ServedTemplate,
        tokenizer: Any,
        job: RenderJob,
        reasons: Mapping[int, str],
    ) -> None:
        self._example = with_fitting_ids(example, template)
        self._template = template
        self._tokenizer = tokenizer
        self._max_length = job.max_length
        self._found = renderings(example, template)
        self._rows = [tokenised(rendering, tokenizer) for rendering in self._found.texts]
        self._is_dropped = job.too_long == "drop" and any(
            is_too_long(labels, job.max_length) for _, labels in self._rows
        )
        self._unlearned = {turn: self._looked_at(turn, reasons) for turn in self._others()}
        self._seen: set[int] = set()

    def show(self) -> RenderedExample:
        """Rows, totals and drops."""
        rows = tuple(
            self._row(rendering, ids, labels)
            for rendering, (ids, labels) in zip(self._found.texts, self._rows, strict=True)
        )
        segments = [segment for row in rows for segment in row.segments]
        return RenderedExample(
            rows=rows,
            num_kept=sum(s.num_tokens for s in segments if s.state == "kept"),
            drops=(*_drops(segments), *self._without_text()),
        )

    def _others(self) -> Iterator[int]:
        """The assistant's turns that are no targets."""
        targets = set(self._example.targets)
        for turn, message in enumerate(self._example.messages):
            if message["role"] == "assistant" and turn not in targets:
                yield turn

    def _looked_at(self, turn: int, reasons: Mapping[int, str]) -> _Unlearned:
        message = self._example.messages[turn]
        size = num_tokens(message, self._tokenizer)
        if turn == 0:
            return _Unlearned("", None, OPENING, size)
        reason = f"{NOT_CHOSEN}: {reasons[turn]}" if turn in reasons else NOT_CHOSEN
        try:
            text, start = reply_of(self._example, turn, self._template)
        except UnservableError:
            return _Unlearned("", None, reason, size)
        size = len(encode(self._tokenizer, text[start:]))
        return _Unlearned(text, TurnSpan(turn, start, len(text)), reason, size)

    def _row(self, rendering: Rendering, ids: list[int], labels: list[int]) -> RenderedRow:
        text = rendering.text
        end_of_row = 0 if self._is_dropped else num_fitting(labels, self._max_length)
        is_trained = any(label != IGNORED for label in labels[1:end_of_row])
        around: _Fate = ("prompt", None, NOT_ASSISTANT if is_trained else ROW_LEFT_OUT)
        fates = [around] * len(ids)
        shown = [u for u in self._unlearned.values() if u.span and text.startswith(u.text)]
        spans = sorted(
            [*rendering.spans, *(u.span for u in shown if u.span)], key=lambda s: s.start
        )
        why = {u.span.turn: u.reason for u in shown if u.span}
        self._seen |= why.keys()
        turn = None
        ranges = token_spans(text, spans, ids, self._tokenizer)
        for span, (start, end) in zip(spans, ranges, strict=True):
            turn = span.turn
            fate: _Fate = ("dropped", turn, why[turn]) if turn in why else ("prompt", turn, GLUE)
            fates[start:end] = [fate] * (end - start)
            for i in range(start, min(end + 1, len(ids))):
                if labels[i] != IGNORED:
                    is_cut = i >= end_of_row
                    fates[i] = ("dropped", turn, self._cut) if is_cut else ("kept", turn, None)
        return RenderedRow(segments=tuple(self._segments(text, ids, fates)), is_trained=is_trained)

    @property
    def _cut(self) -> str:
        return f"{DROPPED if self._is_dropped else CUT} {self._max_length}"

    def _segments(self, text: str, ids: list[int], fates: list[_Fate]) -> Iterator[Segment]:
        starts = self._starts(text, ids)
        at = 0
        for (state, turn, reason), run in groupby(fates):
            size = len(list(run))
            beginning, at = starts[at], at + size
            end = starts[at] if at < len(starts) else len(text)
            yield Segment(
                text=text[beginning:end], num_tokens=size, state=state, turn=turn, reason=reason
            )

    def _starts(self, text: str, ids: list[int]) -> list[int]:
        """At which character each token begins; white space that a tokenizer swallows goes to the
        token after it.
        """
        encoding = self._tokenizer(
            text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
        )
        starts, reached = [], 0
        for _, end in encoding["offset_mapping"]:
            starts.append(reached)
            reached = max(reached, end)
        assert len(starts) == len(ids)
        return starts

    def _without_text(self) -> Iterator[Drop]:
        """Turns that are in no row."""
        for turn, refusal in sorted(self._found.refused.items()):
            yield Drop(
                reason=refusal.reason,
                turns=(turn,),
                num_tokens=num_tokens(self._example.messages[turn], self._tokenizer),
                is_eligible=True,
                advice=refusal.advice,
            )
        for turn, unlearned in self._unlearned.items():
            if turn not in self._seen:
                yield Drop(
                    reason=unlearned.reason,
                    turns=(turn,),
                    num_tokens=unlearned.num_tokens,
                    is_eligible=False,
                )


def _drops(segments: list[Segment]) -> Iterator[Drop]:
    reasons = dict.fromkeys(s.reason for s in segments if s.reason is not None)
    for reason in reasons:
        part = [segment for segment in segments if segment.reason == reason]
        yield Drop(
            reason=reason,
            turns=tuple(sorted({s.turn for s in part if s.turn is not None})),
            num_tokens=sum(segment.num_tokens for segment in part),
            is_eligible=reason.startswith((CUT, DROPPED)),
        )
