"""What a run learns from, and by which method and settings: decided once, before anything expensive."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from honed.domain.job import TrainJob, TrainSettings
from honed.domain.recipe import LONGEST, Base, Data, Family, recipe
from honed.domain.trained_model import Method
from honed.errors import EmptyDataError
from honed.worker.architectures import Architecture
from honed.worker.examples import Example, Labelled, Lesson, Preference, read_lessons
from honed.worker.lora_targets import lora_parameters
from honed.worker.method import choose
from honed.worker.preferences import Compared, LabelledRow, PairRow, prepare_labelled, prepare_pairs
from honed.worker.rows import Prepared, Row, prepare

AnyRow = Row | PairRow | LabelledRow


class Plan(NamedTuple):
    """How a run learns."""

    method: Method
    reason: str
    """Why this method."""
    settings: TrainSettings
    """Complete."""
    chosen: dict[str, str]
    """Settings that nobody had chosen: the value and why."""
    lessons: Sequence[Lesson]
    lines: Sequence[int]
    """Line of the data file of each of them, from 0."""
    num_examples: int
    """Lines of the data file."""


class Material(NamedTuple):
    """The rows of a run and what did not become part of one."""

    rows: Sequence[AnyRow]
    dropped: Counter[str]
    advice: dict[str, str]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(_length, self.rows))

    @property
    def num_targets(self) -> int:
        """Tokens that count."""
        return sum(row.num_targets for row in self.rows)


def plan(job: TrainJob, config: Any, architecture: Architecture, tokenizer: Any) -> Plan:
    """Read the data file and decide by which method and settings it is learned.

    Raises:
        EmptyDataError: it cannot teach.
        TrainingError: it cannot be read, or does not fit the method.
        UnsupportedError: the method comes with a later version.
    """
    read = read_lessons(Path(job.data_path))
    choice = choose(job.settings.method, read)
    reason = f"{choice.reason}; {job.data_reason}" if job.data_reason else choice.reason
    made = Plan(choice.method, reason, job.settings, {}, choice.lessons, choice.lines, len(read))
    sizes = None
    if job.settings.preset == "auto":
        base = Base(
            family=_family(architecture),
            hidden_size=config.hidden_size,
            context=config.max_position_embeddings,
            lora_parameters=lora_parameters(config, job.settings.target_modules),
        )
        sizes = _data(made, tokenizer, base.context), base
    found = recipe(job.settings, choice.method, sizes)
    return made._replace(settings=found.settings, chosen=found.chosen)


def _data(plan: Plan, tokenizer: Any, context: int) -> Data:
    """What there is to learn from within the length that somebody has chosen, else within the longest one allowed."""
    settings = plan.settings
    if "max_length" not in (settings.fixed or ()):
        settings = msgspec.structs.replace(settings, max_length=min(LONGEST, context))
    material = material_of(plan, tokenizer, settings)
    return Data(
        num_rows=len(material.rows), num_tokens=material.num_targets, longest=material.longest
    )


def material_of(plan: Plan, tokenizer: Any, settings: TrainSettings) -> Material:
    """The rows of a plan; a row knows its line of the data file.

    Raises:
        EmptyDataError: there are none.
    """
    length = settings.max_length
    made: Prepared | Compared
    match plan.method:
        case "dpo":
            pairs = cast("Sequence[Preference]", plan.lessons)
            made = prepare_pairs(pairs, tokenizer, max_length=length)
        case "kto":
            answers = cast("Sequence[Labelled]", plan.lessons)
            made = prepare_labelled(answers, tokenizer, max_length=length, seed=settings.seed)
        case _:
            examples = cast("Sequence[Example]", plan.lessons)
            made = prepare(examples, tokenizer, max_length=length, too_long=settings.too_long)
    if not made.rows:
        raise _nothing_to_learn(plan, made.dropped, made.advice, length)
    rows = [replace(row, example=plan.lines[row.example]) for row in made.rows]
    return Material(rows, made.dropped, made.advice)


def _length(row: AnyRow) -> int:
    match row:
        case PairRow():
            return max(len(text.input_ids) for text in (*row.chosen, *row.rejected))
        case LabelledRow():
            return len(row.row.input_ids)
        case Row():
            return len(row.input_ids)


def _family(architecture: Architecture) -> Family:
    name = architecture.name.lower()
    return "qwen" if name.startswith("qwen") else "llama" if name.startswith("llama") else "other"


def _nothing_to_learn(
    plan: Plan, dropped: Counter[str], advice: dict[str, str], max_length: int
) -> EmptyDataError:
    reasons = [f"{count} tokens: {reason}" for reason, count in dropped.most_common(3)]
    given = [advice[reason] for reason in dropped if reason in advice]
    told = f" ({'; '.join(reasons)})" if reasons else ""
    lacks = (
        f"has an assistant token within {max_length} tokens"
        if plan.method == "sft"
        else f"can be compared within {max_length} tokens"
    )
    kinds = {"sft": "conversations", "dpo": "pairs", "kto": "answers"}
    return EmptyDataError(
        f"none of the {len(plan.lessons)} {kinds[plan.method]} {lacks}{told}",
        advice=given[0] if given else "raise train.max_length, or check what the episodes contain",
    )
