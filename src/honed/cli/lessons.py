"""In words, which adapters learned from an episode and by which verdict."""

from collections.abc import Iterable, Iterator

from honed.cli.figures import said_by, worth
from honed.domain.verdict import UNSIGNED
from honed.ports import Lesson


def sentences(lessons: Iterable[Lesson], *, learn_model: str) -> Iterator[str]:
    """One line for each adapter that learned from an episode of this learn model."""
    for lesson in lessons:
        verdict = _verdict(lesson, learn_model)
        yield f"{lesson.model_id} learned from it in run {lesson.run_id}, {verdict}"


def _verdict(lesson: Lesson, learn_model: str) -> str:
    if lesson.outcome is None:
        return "by which verdict was not written down"
    who = said_by(lesson.source, lesson.version, learn_model=learn_model)
    said = UNSIGNED if who == UNSIGNED else f"said by {who}"
    return f"as {worth(lesson.outcome)}, {said}"
