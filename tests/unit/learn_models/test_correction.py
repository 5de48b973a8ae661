"""What the chat model learns from an attempt that somebody corrected."""

from typing import Any

from honed.domain.message import Message
from honed.learn_models.correction import CORRECTED, NOT_JUDGED
from tests.unit.learn_models.test_chat import CHAT, call, episode_of, outcome, record, said, user

FAILED = {"type": "failure", "reason": "wrong"}


def corrected(**fields: Any) -> Any:
    told = {"type": "outcome", "demonstration": "right", "task_id": "t"}
    return record(**(told | fields))


def learned(*records: Any) -> tuple[list[str], list[int]]:
    """The texts of the training data and the indexes of the turns that count."""
    data = CHAT.convert(episode_of(*records))
    turns = data.trained_turns
    if turns is None:
        turns = tuple(i for i, m in enumerate(data.messages) if m.role == "assistant")
    return [message.text for message in data.messages], list(turns)


def test_the_better_answer_is_learned_in_place_of_the_last_one() -> None:
    """The attempt failed, and teaches all the same; who said it stands beside the row."""
    failed = outcome(FAILED)
    answer = corrected(source="ann", version="2")
    episode = episode_of(call(user("q"), answer="wrong"), failed, answer)
    assert learned(*episode.records) == (["q", "right"], [1])
    assert CHAT.convert(episode).metadata.demonstrated_by == "ann (2)"


def test_what_followed_the_corrected_answer_is_left_out() -> None:
    """It answered the old one."""
    first = call(user("q"), answer="wrong", receipt_id="r1")
    second = call(user("q"), said("wrong"), user("and?"), answer="more")
    assert learned(first, second, corrected(receipt_id="r1")) == (["q", "right"], [1])


def test_turns_before_it_are_learned_in_a_success_only() -> None:
    """A correction says nothing about them."""
    first = call(user("q"), answer="fine", receipt_id="r1")
    second = call(user("q"), said("fine"), user("and?"), answer="wrong", receipt_id="r2")
    better = corrected(receipt_id="r2")
    texts = ["q", "fine", "and?", "right"]
    assert learned(first, second, better, outcome({"type": "success"})) == (texts, [1, 3])
    failed = (first, second, better, outcome(FAILED))
    assert learned(*failed) == (texts, [3])
    left_out = CHAT.left_out(episode_of(*failed))
    assert (left_out[0].turn, left_out[0].reason) == (1, NOT_JUDGED)


def test_an_earlier_answer_that_was_corrected_too_stays_as_context() -> None:
    """What came later answered it as it was; it is not learned."""
    first = call(user("q"), answer="wrong", receipt_id="r1")
    second = call(user("q"), said("wrong"), user("and?"), answer="bad", receipt_id="r2")
    told = (corrected(receipt_id="r1"), corrected(receipt_id="r2"), outcome({"type": "success"}))
    assert learned(first, second, *told) == (["q", "wrong", "and?", "right"], [3])
    left_out = CHAT.left_out(episode_of(first, second, *told))
    assert (left_out[0].turn, left_out[0].reason) == (1, CORRECTED)


def test_the_newest_correction_of_a_call_counts() -> None:
    """A message may bring tool calls."""
    tool_call = {"function": {"name": "look", "arguments": "{}"}}
    newer = {"role": "assistant", "content": None, "tool_calls": [tool_call]}
    episode = episode_of(
        call(user("q"), answer="wrong"), corrected(), corrected(demonstration=newer)
    )
    turn = CHAT.convert(episode).messages[-1]
    assert turn.tool_calls is not None
    assert turn.tool_calls[0].function.name == "look"


def test_a_call_that_failed_may_be_corrected() -> None:
    """Nothing came back, and somebody says what should have."""
    failed = call(user("q"), answer=None, error="timeout")
    assert learned(failed, corrected()) == (["q", "right"], [1])


def test_a_correction_of_another_call_corrects_nothing() -> None:
    """It names a receipt that the attempt does not have."""
    episode = episode_of(
        call(user("q"), answer="fine", receipt_id="r1"), corrected(receipt_id="r2")
    )
    data = CHAT.convert(episode)
    assert data.messages[-1] == Message(role="assistant", content="fine")
    assert data.metadata.demonstrated_by is None


def test_a_comment_ends_nothing() -> None:
    """Words alone say neither that an attempt is over nor how it went."""
    comment = record(type="outcome", task_id="t", comment="odd")
    assert not CHAT.is_closing(comment)
    assert CHAT.is_closing(corrected())
    assert episode_of(call(user("q"), answer="a"), outcome(FAILED), comment).outcome != comment
