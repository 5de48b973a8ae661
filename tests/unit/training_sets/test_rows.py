"""Training data as JSON lines: TRL's columns, metadata beside them, any order."""

import hashlib
import json
from pathlib import Path

import pytest

from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.training_data import (
    ChatExample,
    LabelledExample,
    TrainingMetadata,
    dpo_with_system,
    sft_simple,
)
from honed.training_sets.rows import RowSpool, format_row

ASKED = Message(role="user", content="hi")
SAID = Message(role="assistant", content="hello")


@pytest.mark.feature("SE-054")
def test_a_conversation() -> None:
    """Empty fields are left out, a tool call says its type, turns that count are listed."""
    call = ToolCall(id="c1", function=FunctionCall(name="look", arguments='{"at": 1}'))
    example = ChatExample(
        messages=(ASKED, SAID, ASKED, Message(role="assistant", tool_calls=(call,))),
        tools=({"type": "function", "function": {"name": "look"}},),
        trained_turns=(3,),
        metadata=TrainingMetadata(episode_id="e"),
    )
    assert json.loads(format_row(example)) == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": 1}'},
                    }
                ],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "trained_turns": [3],
    }
    assert json.loads(format_row(sft_simple("hi", "hello"))).keys() == {"messages"}


@pytest.mark.feature("SE-054")
def test_pairs_and_labels() -> None:
    """Preference pairs and labelled examples have TRL's columns."""
    turn = {"role": "assistant", "content": "a"}
    pair = json.loads(format_row(dpo_with_system("s", "p", "a", "b")))
    assert list(pair) == ["prompt", "chosen", "rejected"]
    assert pair["chosen"] == [turn]
    labelled = LabelledExample(prompt=(ASKED,), completion=(SAID,), label=False)
    assert json.loads(format_row(labelled))["label"] is False


@pytest.mark.feature("SE-056", "SE-057")
def test_rows_in_another_order(tmp_path: Path) -> None:
    """Rows are written in the order that is asked for, each with its own metadata."""
    data, metadata = tmp_path / "d.jsonl", tmp_path / "m.jsonl"
    with RowSpool(tmp_path) as spool:
        added = [
            spool.add(
                ChatExample(
                    messages=(ASKED, Message(role="assistant", content=f"Zeile {i} ö ä\n")),
                    metadata=TrainingMetadata(episode_id=str(i)),
                )
            )
            for i in range(5)
        ]
        digest = spool.write([added[i] for i in (3, 0, 4)], data, metadata)
        assert spool.write([], tmp_path / "e", tmp_path / "f") == hashlib.sha256(b"").hexdigest()
    assert digest == hashlib.sha256(data.read_bytes()).hexdigest()
    texts = [json.loads(line)["messages"][1]["content"] for line in data.read_text().splitlines()]
    ids = [json.loads(line)["episode_id"] for line in metadata.read_text().splitlines()]
    assert texts == [f"Zeile {i} ö ä\n" for i in (3, 0, 4)]
    assert ids == ["3", "0", "4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "e", "f", "m.jsonl"]
