"""Training data: what an example must hold; episodes: what they may teach."""

import pytest

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.message import ContentPart, FunctionCall, Message, Role, ToolCall
from honed.domain.records import LlmCallRecord
from honed.domain.training_data import (
    ChatExample,
    LabelledExample,
    PreferencePair,
    dpo,
    dpo_with_system,
    sft,
    sft_simple,
)
from honed.errors import ValidationError

ASKED = Message(role="user", content="hi")
SAID = Message(role="assistant", content="hello")


@pytest.mark.feature("SE-055", "SE-057")
def test_short_constructors() -> None:
    """Texts become turns; without system text there is no system turn."""
    assert [m.role for m in sft("s", "p", "a").messages] == ["system", "user", "assistant"]
    assert sft_simple("p", "a") == sft("", "p", "a")
    pair = dpo_with_system("s", "p", "good", "bad")
    assert [m.text for m in (*pair.prompt, *pair.chosen, *pair.rejected)] == [
        "s",
        "p",
        "good",
        "bad",
    ]
    assert len(dpo("p", "good", "bad").prompt) == 1


@pytest.mark.feature("SE-055")
@pytest.mark.parametrize(
    "make",
    [
        lambda: ChatExample(messages=()),
        lambda: ChatExample(messages=(ASKED,)),
        lambda: ChatExample(messages=(ASKED, Message(role="assistant", content=""))),
        lambda: dpo("p", "good", ""),
        lambda: LabelledExample(prompt=(ASKED,), completion=(), label=True),
    ],
)
def test_examples_that_cannot_teach(make: object) -> None:
    """No turns, no assistant turn, an empty one, or half a pair: refused."""
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]


@pytest.mark.feature("SE-058")
@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_turn_that_says_nothing_is_refused_by_its_place(role: Role) -> None:
    """Neither text nor tool call; a call alone is enough."""
    empty = Message(role=role, content="")
    with pytest.raises(ValidationError, match=f"turn 1 of messages \\({role}\\)") as caught:
        ChatExample(messages=(ASKED, empty, SAID))
    assert caught.value.path == "$.messages[1]"
    with pytest.raises(ValidationError) as caught:
        PreferencePair(prompt=(ASKED,), chosen=(SAID,), rejected=(SAID, empty))
    assert caught.value.path == "$.rejected[1]"
    call = ToolCall(function=FunctionCall(name="look"))
    assert ChatExample(messages=(ASKED, Message(role="assistant", tool_calls=(call,))))


@pytest.mark.feature("SE-055")
@pytest.mark.parametrize(
    ("chosen", "rejected", "path"), [("good", "", "$.rejected[0]"), ("", "bad", "$.chosen[0]")]
)
def test_a_pair_of_one_answer_is_refused(chosen: str, rejected: str, path: str) -> None:
    """Whichever of the two is missing; as turns as well as text."""
    with pytest.raises(ValidationError) as caught:
        dpo("p", chosen, rejected)
    assert caught.value.path == path
    with pytest.raises(ValidationError, match="rejected is empty"):
        PreferencePair(prompt=(ASKED,), chosen=(SAID,), rejected=())


def test_the_text_of_a_message() -> None:
    """Text parts are joined; other parts have no text."""
    parts = (ContentPart(text="a"), ContentPart(type="image_url"), ContentPart(text="b"))
    assert Message(role="user", content=parts).text == "ab"
    assert Message(role="user").is_empty
    assert not SAID.is_empty


def test_an_episode_teaches_if_all_of_its_records_may() -> None:
    """One record without consent, or that was no real work, keeps the whole episode out."""

    def episode(*records: LlmCallRecord, **fields: str) -> Episode:
        return Episode(
            id="e",
            learn_model="chat",
            records=records,
            metadata=EpisodeMetadata(created_at_ms=1),
            **fields,
        )

    good = LlmCallRecord(timestamp_ms=1)
    assert episode(good, good).may_teach
    assert not episode(good, LlmCallRecord(timestamp_ms=1, train=False)).may_teach
    assert not episode(good, LlmCallRecord(timestamp_ms=1, purpose="probe")).may_teach
    assert episode(good).split_key == "e"
    assert episode(good, task_id="t").split_key == "t"
    assert episode(good, task_id="t", group_id="g").split_key == "g"


def test_calls_of_one_unnamed_conversation_stay_on_one_side_of_the_split() -> None:
    """Each call repeats the turns before it: held out or trained, but never both."""
    opening = (Message(role="system", content="s"), Message(role="user", content="u"))
    later = (*opening, Message(role="assistant", content="a"), Message(role="user", content="v"))

    def key(*messages: Message, **fields: str) -> str:
        call = LlmCallRecord(timestamp_ms=1, messages=messages, **fields)
        metadata = EpisodeMetadata(created_at_ms=1)
        return Episode(id="e", learn_model="chat", records=(call,), metadata=metadata).split_key

    assert key(*opening) == key(*later)
    assert key(*opening) != key(opening[0], Message(role="user", content="w"))
    assert key(*opening, session_id="s1") == key(*later[2:], session_id="s1") == "session:s1"
