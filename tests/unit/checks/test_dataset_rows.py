"""Rows of every form are told by their fields; what is no row says why."""

from pathlib import Path
from typing import Any

import pytest

from honed.checks.dataset_rows import DatasetRow, Fault, read_rows
from honed.checks.test_set import conversations, write_conversations
from honed.errors import ValidationError
from tests.unit.checks.rows import talk, write

SAID = [("user", "how?"), ("assistant", "so")]


def one(tmp_path: Path, row: Any) -> DatasetRow | Fault:
    (found,) = read_rows(write(tmp_path / "rows.jsonl", [row]))
    return found


@pytest.mark.parametrize(
    ("form", "row", "turns"),
    [
        (
            "messages",
            {"messages": [{"role": r, "content": c} for r, c in SAID]},
            SAID,
        ),
        (
            "messages",
            {"conversations": [{"role": r, "content": c} for r, c in SAID]},
            SAID,
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "how?"}, {"from": "gpt", "value": "so"}]},
            SAID,
        ),
        (
            "instruction",
            {"instruction": "be short", "input": "how?", "output": "so"},
            [("system", "be short"), *SAID],
        ),
        ("instruction", {"instruction": "how?", "input": "", "output": "so"}, SAID),
        ("completion", {"prompt": "how?", "completion": "so"}, SAID),
        (
            "preference",
            {"prompt": [{"role": "user", "content": "how?"}], "chosen": "so", "rejected": "no"},
            [*SAID, ("assistant", "no")],
        ),
        ("text", {"text": "<user>how?<assistant>so"}, []),
    ],
    ids=["messages", "conversations", "from-value", "input", "no-input", "prompt", "pair", "text"],
)
def test_a_row_of_each_form_has_its_turns(
    tmp_path: Path, form: str, row: dict[str, Any], turns: list[tuple[str, str]]
) -> None:
    """In OpenAI's form, whatever they were written in; with an empty input the instruction is the user's turn."""
    found = one(tmp_path, row)
    assert isinstance(found, DatasetRow), found
    assert found.form == form
    assert [(turn["role"], turn["content"]) for turn in found.turns] == turns


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        ("{", "parse", "no JSON"),
        ("[1]", "parse", "list where an object"),
        ({"question": "how?"}, "fields", "it has question"),
        ({"messages": [{"role": "user", "content": "how?"}]}, "fields", "no turn of the assistant"),
        ({"messages": [{"role": "boss", "content": "how?"}]}, "fields", "the role 'boss'"),
        ({"messages": [{"role": ["user"], "content": "how?"}]}, "fields", "the role ['user']"),
        ({"messages": ["how?"]}, "fields", "messages[0] is no object"),
        ({"messages": [{"role": "user", "content": ""}]}, "fields", "messages[0] has no content"),
        ({"messages": [{"role": "user", "content": 7}]}, "fields", "is no text"),
        ({"instruction": "how?", "output": " "}, "fields", "the field output is missing"),
        ({"instruction": "how?", "input": 7, "output": "so"}, "fields", "input is no text"),
        ({"prompt": "how?"}, "fields", "the field completion is missing"),
        ({"prompt": "how?", "chosen": "so"}, "fields", "the field rejected is missing"),
        ({"text": "  "}, "fields", "none of the fields"),
        (
            {"conversations": [{"from": "function_call", "value": "look()"}]},
            "fields",
            "is no call",
        ),
    ],
    ids=str,
)
def test_a_line_that_is_no_row_says_why(tmp_path: Path, line: Any, kind: str, says: str) -> None:
    """With its number, and which field is wrong how."""
    path = write(tmp_path / "rows.jsonl", [talk(1), "", line])
    good, bad = read_rows(path)
    assert isinstance(good, DatasetRow)
    assert isinstance(bad, Fault)
    assert (bad.line, bad.kind) == (3, kind)
    assert says in bad.text


def test_white_space_makes_no_other_row(tmp_path: Path) -> None:
    """Copies are found whose spaces differ, and whatever form they are in."""
    row = {
        "messages": [
            {"role": "user", "content": "how\n is it?"},
            {"role": "assistant", "content": "so"},
        ]
    }
    other = {"instruction": "how is it?", "output": " so "}
    first, second = (one(tmp_path, each) for each in (row, other))
    assert isinstance(first, DatasetRow)
    assert isinstance(second, DatasetRow)
    assert first.digest == second.digest
    assert first.opening == second.opening != first.digest


def test_tags_are_found_in_the_row_and_in_its_metadata(tmp_path: Path) -> None:
    """Groups, language, source and category."""
    found = one(
        tmp_path,
        talk(1, group_id="g", lang="de", metadata={"task_id": 7, "source": "s", "category": "c"})
        | {"language": None},
    )
    assert isinstance(found, DatasetRow)
    assert found.groups == {"group_id:g", "task_id:7"}
    assert (found.language, found.source, found.category) == ("de", "s", "c")


def test_a_call_in_a_turn_of_its_own_becomes_a_call(tmp_path: Path) -> None:
    """ShareGPT writes it as JSON text; its answer is `observation`."""
    turns = [
        {"from": "human", "value": "look"},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'},
        {"from": "observation", "value": ""},
        {"from": "gpt", "value": "seen"},
    ]
    found = one(tmp_path, {"conversations": turns})
    assert isinstance(found, DatasetRow)
    assert [turn["role"] for turn in found.turns] == ["user", "assistant", "tool", "assistant"]
    call = found.turns[1]["tool_calls"][0]["function"]
    assert call == {"name": "look", "arguments": '{"at": 1}'}


def test_a_test_set_of_any_form_becomes_conversations(tmp_path: Path) -> None:
    """One a line, tools and chosen turns with them."""
    rows = [
        {"instruction": "how?", "output": "so"},
        talk(1, tools=[{"type": "function"}], trained_turns=[1]),
    ]
    path = write(tmp_path / "test.jsonl", rows)
    plain, full = conversations(path)
    assert [turn["content"] for turn in plain["messages"]] == ["how?", "so"]
    assert (full["tools"], full["trained_turns"]) == ([{"type": "function"}], [1])
    assert write_conversations(path, tmp_path / "out/rows.jsonl") == 2
    assert len((tmp_path / "out/rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "<user>how?"}, "line 2 is preformatted text"),
        ({"prompt": "how?", "chosen": "so", "rejected": "no"}, "line 2 is a pair of answers"),
        ("{", "line 2: no JSON"),
    ],
    ids=["text", "pair", "broken"],
)
def test_a_row_without_one_conversation_is_no_test(tmp_path: Path, row: Any, says: str) -> None:
    """Which of its tokens are the assistant's is not known."""
    path = write(tmp_path / "test.jsonl", [talk(1), row])
    with pytest.raises(ValidationError, match=says) as error:
        list(conversations(path))
    assert "format step" in str(error.value.advice)


def test_an_empty_test_set_is_refused(tmp_path: Path) -> None:
    """Nothing can be measured on it."""
    with pytest.raises(ValidationError, match="has no row"):
        write_conversations(write(tmp_path / "test.jsonl", []), tmp_path / "rows.jsonl")
    with pytest.raises(ValidationError, match="cannot be read"):
        list(read_rows(tmp_path / "absent.jsonl"))
