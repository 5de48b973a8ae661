"""Which of several verdicts counts."""

import pytest

from honed.domain.events import OutcomeEvent, parse_event
from honed.domain.message import Message
from honed.domain.outcome import Failure, Success
from honed.domain.records import OutcomeRecord, record_from_event
from honed.domain.verdict import Told, standing
from honed.errors import ValidationError

NO, YES = Failure("no"), Success()


def test_nothing_said_stands_for_nothing() -> None:
    """Without verdicts none counts."""
    assert standing([]) is None


def test_the_newest_arrival_counts() -> None:
    """Whoever speaks last is heard, versions of others notwithstanding."""
    assert standing([Told(YES, "judge", "9"), Told(NO, "a person")]) == Told(NO, "a person")
    assert standing([Told(NO, "a person"), Told(YES, "judge", "1")]) == Told(YES, "judge", "1")


def test_an_old_version_does_not_undo_a_newer_one() -> None:
    """The old judge that catches up changes nothing; v9 is before v10."""
    newer = Told(YES, "judge", "v10")
    assert standing([newer, Told(NO, "judge", "v9")]) == newer
    assert standing([newer, Told(NO, "judge", "v10")]) == Told(NO, "judge", "v10")
    endless = Told(NO, "judge", "v" + "9" * 5_000)  # more digits than `int` takes
    assert standing([endless, newer]) == endless
    assert standing([Told(YES, "judge", "v07"), Told(NO, "judge", "v6")]) == Told(
        YES, "judge", "v07"
    )


def test_without_a_version_a_source_corrects_itself() -> None:
    """The newest word of a source that gives no version counts."""
    assert standing([Told(YES, "judge", "2"), Told(NO, "judge")]) == Told(NO, "judge")


def test_an_outcome_event_must_say_something() -> None:
    """A verdict, a comment or a better answer; an empty answer is none."""
    with pytest.raises(ValidationError, match="an outcome, a comment or a demonstration"):
        parse_event(b'{"type": "outcome", "task_id": "t"}')
    for empty in (b'""', b'{"role": "assistant"}'):
        with pytest.raises(ValidationError, match="the demonstration is empty"):
            parse_event(b'{"type": "outcome", "task_id": "t", "demonstration": ' + empty + b"}")


def test_a_demonstration_is_a_turn_of_the_assistant() -> None:
    """As text or as a message; one from a sender that is not trusted corrects nothing."""
    for said in ("go left", Message(role="user", content="go left")):
        event = OutcomeEvent(task_id="t", demonstration=said)
        record = record_from_event(event, received_ms=1)
        assert isinstance(record, OutcomeRecord)
        assert record.corrected == Message(role="assistant", content="go left")
    event = OutcomeEvent(task_id="t", demonstration="go left", trust="untrusted")
    record = record_from_event(event, received_ms=1)
    assert isinstance(record, OutcomeRecord)
    assert record.corrected is None
