"""In words, which adapters learned from an episode and by which verdict."""

from collections.abc import Iterable, Iterator

from honed.domain.outcome import score
from honed.ports import Lesson


def sentences(lessons: Iterable[Lesson]) -> Iterator[str]:
    """One line for each adapter."""
    for lesson in lessons:
        yield f"{lesson.model_id} learned from it in run {lesson.run_id}, {_verdict(lesson)}"


def _verdict(lesson: Lesson) -> str:
    if lesson.outcome is None:
        return "by which verdict was not written down"
    who = " ".join(filter(None, (lesson.source, lesson.version)))
    said = f", said by {who}" if who else ""
    return f"as {type(lesson.outcome).__name__.lower()} {score(lesson.outcome):.2f}{said}"
