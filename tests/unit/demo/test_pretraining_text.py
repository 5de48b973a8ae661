"""The text of the demo's base model: it teaches to read and is blind to what helps."""

import json
from collections import Counter
from pathlib import Path

import pytest

from honed.demo.environment import CAUSES, CHANGES, INSPECTIONS, UNKNOWN, World, parse_reply
from honed.demo.pretraining_text import (
    NUM_CONVERSATIONS,
    conversations,
    count_right,
    write_conversations,
)
from honed.demo.statistics import wilson


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_right_changes_are_as_frequent_as_chance(seed: int) -> None:
    """One change in eight is right, within the 99.9 % interval of so many draws."""
    right, total = count_right(conversations(seed), World(seed))
    assert total > NUM_CONVERSATIONS
    deviation = abs(right / total - 1 / 8) / (1 / 8 * 7 / 8 / total) ** 0.5
    assert deviation < 3.3


def test_the_text_does_not_depend_on_the_world() -> None:
    """Blindness is the same whichever changes are right: the text cannot know them."""
    text = conversations(1)
    shares = [wilson(*count_right(text, World(seed))) for seed in range(30)]
    assert sum(share.low < 1 / 8 < share.high for share in shares) >= 25


def test_a_text_that_is_not_blind_is_found_out() -> None:
    """The measure sees it when one change in ten is corrected to the right one."""
    world, text = World(1), conversations(1, 3_000)
    for i, item in enumerate(text):
        for message in item.messages:
            reply = parse_reply(message["content"]) if message["role"] == "assistant" else None
            if i % 10 == 0 and item.cause and reply and reply.action in CHANGES:
                message["content"] = f"{reply.subject}: {world.right[item.cause]}"
    assert wilson(*count_right(text, world)).low > 1 / 8


def test_every_reading_is_right() -> None:
    """Before the finding the subject is unknown, after it the cause."""
    for messages, cause in conversations(2, 500):
        if cause is None:
            continue
        replies = [parse_reply(m["content"]) for m in messages if m["role"] == "assistant"]
        subjects = [reply.subject for reply in replies if reply]
        assert len(subjects) == len(replies)
        assert subjects == [UNKNOWN] + [cause] * (len(subjects) - 1)


def test_the_text_inspects_before_it_changes() -> None:
    """Its first action is an inspection, all others are changes without effect."""
    for messages, cause in conversations(2, 500):
        if cause is None:
            continue
        replies = [parse_reply(m["content"]) for m in messages if m["role"] == "assistant"]
        actions = [reply.action for reply in replies if reply]
        assert actions[0] in INSPECTIONS
        assert set(actions[1:]) <= set(CHANGES)
        assert not any("resolved" in m["content"] for m in messages)


def test_lengths_tell_nothing() -> None:
    """A conversation does not end at a right change more often than elsewhere."""
    world, ended, went_on = World(1), Counter[bool](), Counter[bool]()
    for messages, cause in conversations(1):
        if cause is None:
            continue
        replies = [parse_reply(m["content"]) for m in messages if m["role"] == "assistant"]
        changes = [reply.action for reply in replies[1:] if reply]
        ended[changes[-1] == world.right[cause]] += 1
        went_on.update(change == world.right[cause] for change in changes[:-1])
    at_end, before = wilson(ended[True], ended.total()), wilson(went_on[True], went_on.total())
    assert at_end.low < before.high
    assert before.low < at_end.high


def test_a_quarter_repeats() -> None:
    """Repetitions hold the line that they repeat, and no action."""
    text = conversations(3, 2_000)
    repetitions = [item.messages for item in text if item.cause is None]
    assert wilson(len(repetitions), len(text)).low < 0.25 < wilson(len(repetitions), len(text)).high
    for _, question, answer in repetitions:
        assert question["content"].endswith(f"\n{answer['content']}")
        assert parse_reply(answer["content"]) is None


def test_all_causes_and_changes_occur_alike() -> None:
    """No cause and no change is rare."""
    text = conversations(1)
    causes = Counter(item.cause for item in text if item.cause)
    assert set(causes) == set(CAUSES)
    assert min(causes.values()) > 0.8 * max(causes.values())


def test_the_file_holds_the_conversations_and_nothing_else(tmp_path: Path) -> None:
    """The same seed writes the same bytes, without the causes."""
    write_conversations(tmp_path / "a.jsonl", conversations(4, 50))
    write_conversations(tmp_path / "b.jsonl", conversations(4, 50))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row.keys() for row in rows] == [{"messages"}] * 50
