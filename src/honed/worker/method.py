"""By which method a data file is learned: what it holds decides, unless somebody has.

    rows                sft                     dpo         kto
    conversations       all                     refused     refused
    pairs               the better answers      all         both answers, by their labels
    labelled answers    the good ones           refused     all

A file that cannot teach by a method is refused with the reason.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from honed.domain.job import AskedMethod
from honed.domain.trained_model import Method
from honed.errors import EmptyDataError, TrainingError, UnsupportedError
from honed.worker.examples import Example, Labelled, Lesson, Preference

_NAMES: Final[dict[type[Lesson], str]] = {
    Example: "conversations",
    Preference: "pairs of answers",
    Labelled: "labelled answers",
}
_BY_CONTENT: Final[dict[type[Lesson], Method]] = {
    Example: "sft",
    Preference: "dpo",
    Labelled: "kto",
}
NO_GRPO: Final = "method grpo learns from rollouts, which this version cannot make"
GRPO_ADVICE: Final = (
    "a later version brings it; choose auto, sft, dpo or kto, which learn from episodes"
)


class Choice(NamedTuple):
    """The method of a run and what it learns from."""

    method: Method
    reason: str
    """Why this method, in words."""
    lessons: Sequence[Lesson]
    """In the form that the method reads."""
    lines: Sequence[int]
    """Where each of them was read, from 0."""


def choose(asked: AskedMethod, lessons: Sequence[Lesson]) -> Choice:
    """The method for the lines of a data file.

    Raises:
        EmptyDataError: they cannot teach; the message says why.
        TrainingError: they are of several forms, or not of one that the method reads.
        UnsupportedError: the method comes with a later version.
    """
    if asked == "grpo":
        raise UnsupportedError(NO_GRPO, advice=GRPO_ADVICE)
    if not lessons:
        raise EmptyDataError(
            "the data file is empty: expected conversations or answers",
            advice="`honed runs` says what was left out, and why",
        )
    form = _form(lessons)
    method = _BY_CONTENT[form] if asked == "auto" else asked
    reason = (
        f"the data are {len(lessons)} {_NAMES[form]}"
        if asked == "auto"
        else f"train.method asks for it; the data are {len(lessons)} {_NAMES[form]}"
    )
    fitted = _fitted(method, form, lessons)
    return Choice(method, reason, [lesson for lesson, _ in fitted], [line for _, line in fitted])


def _form(lessons: Sequence[Lesson]) -> type[Lesson]:
    forms = Counter(map(type, lessons))
    if len(forms) > 1:
        counts = ", ".join(f"{count} {_NAMES[form]}" for form, count in forms.most_common())
        raise TrainingError(
            f"the data file mixes {counts}: expected lines of one form",
            advice="make a file of each and train them one after the other",
        )
    (form,) = forms
    return form


def _fitted(
    method: Method, form: type[Lesson], lessons: Sequence[Lesson]
) -> Sequence[tuple[Lesson, int]]:
    """The lessons in the form that a method reads, each with its line."""
    match method:
        case "sft":
            return _to_imitate(lessons)
        case "kto" if form is not Example:
            return _labelled(lessons)
        case "dpo" if form is Preference:
            return [(lesson, line) for line, lesson in enumerate(lessons)]
    needed = "pairs of answers" if method == "dpo" else "answers with a label"
    raise TrainingError(
        f"method {method} needs {needed}, and the data are {len(lessons)} {_NAMES[form]}",
        advice='set train.method to "auto", which goes by what the data hold',
    )


def _to_imitate(lessons: Sequence[Lesson]) -> Sequence[tuple[Lesson, int]]:
    found: list[tuple[Lesson, int]] = []
    for line, lesson in enumerate(lessons):
        match lesson:
            case Example():
                found.append((lesson, line))
            case Preference():
                found.append((lesson.chosen, line))
            case Labelled() if lesson.is_good:
                found.append((lesson.answered, line))
    if not found:
        raise EmptyDataError(
            f"none of the {len(lessons)} answers is good: there is nothing to imitate",
            advice='set train.method to "kto" once there are good ones too',
        )
    return found


def _labelled(lessons: Sequence[Lesson]) -> Sequence[tuple[Labelled, int]]:
    found: list[tuple[Labelled, int]] = []
    for line, lesson in enumerate(lessons):
        if isinstance(lesson, Preference):
            found.append((Labelled(lesson.chosen, is_good=True), line))
            found.append((Labelled(lesson.rejected, is_good=False), line))
        elif isinstance(lesson, Labelled):
            found.append((lesson, line))
    _see_both_labels([lesson for lesson, _ in found])
    return found


def _see_both_labels(lessons: Sequence[Labelled]) -> None:
    """Refuse answers that are all good or all bad: they say nothing of what makes the difference.

    Raises:
        EmptyDataError: they are.
    """
    labels = {lesson.is_good for lesson in lessons}
    if labels == {True}:
        raise EmptyDataError(
            f"all {len(lessons)} answers are good: method kto learns from the difference between good and bad",
            advice='set train.method to "sft", which imitates good ones; or wait for failures',
        )
    if labels == {False}:
        raise EmptyDataError(
            f"all {len(lessons)} answers are bad: method kto learns from the difference between good and bad",
            advice="wait for successes, or correct some of the answers",
        )
