"""What is accepted as a row of a stand-alone run, and as what the worker gets it."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.errors import ValidationError
from honed.standalone.rows import write_rows
from tests.unit.standalone.parts import write_lines

TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]
QUESTION = [{"role": "user", "content": "q"}]
ANSWER = [{"role": "assistant", "content": "a"}]

FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({"messages": TALK}, {"messages": TALK}),
    "conversations": ({"conversations": TALK}, {"messages": TALK}),
    "from-value": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        {"messages": TALK},
    ),
    "instruction": (
        {"instruction": "s", "input": "q", "output": "a"},
        {"messages": TALK},
    ),
    "instruction-without-input": (
        {"instruction": "q", "input": " ", "output": "a"},
        {"messages": QUESTION + ANSWER},
    ),
    "completion": (
        {"prompt": "q", "completion": "a"},
        {"messages": QUESTION + ANSWER, "trained_turns": [1]},
    ),
    "text": ({"text": "all of it"}, {"text": "all of it"}),
    "preference": (
        {"prompt": "q", "chosen": "a", "rejected": ANSWER},
        {"prompt": QUESTION, "chosen": ANSWER, "rejected": ANSWER},
    ),
    "labelled": (
        {"prompt": QUESTION, "completion": "a", "label": False},
        {"prompt": QUESTION, "completion": ANSWER, "label": False},
    ),
}


@pytest.mark.feature("TR-059", "TR-060", "TR-047")
@pytest.mark.parametrize("form", sorted(FORMS))
def test_each_form_becomes_one_that_the_worker_reads(tmp_path: Path, form: str) -> None:
    """Turns of from and value are converted; with an empty input the instruction is the user's turn."""
    row, wanted = FORMS[form]
    source = write_lines(tmp_path / "in.jsonl", [row, row])
    assert write_rows(source, tmp_path / "out.jsonl", text_field="text") == 2
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert written == [wanted, wanted]


@pytest.mark.feature("TR-047")
def test_the_field_of_texts_has_any_name(tmp_path: Path) -> None:
    """Blank lines are passed over."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"body": "one"}\n\n{"body": "two"}\n')
    assert write_rows(source, tmp_path / "out.jsonl", text_field="body") == 2
    assert (tmp_path / "out.jsonl").read_text() == '{"text":"one"}\n{"text":"two"}\n'


@pytest.mark.feature("TR-088")
def test_a_line_that_is_no_row_is_named_with_the_format_step(tmp_path: Path) -> None:
    """The first ones by number, the others counted."""
    good = json.dumps({"messages": TALK})
    bad = json.dumps({"conversations": "q, a"})
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join([good, bad, "{", *[bad] * 5]))
    with pytest.raises(ValidationError) as raised:
        write_rows(source, tmp_path / "out.jsonl", text_field="text")
    assert f"{source}: line 2: none of the fields messages, conversations" in str(raised.value)
    assert "line 3: no JSON" in str(raised.value)
    assert "and 2 more" in str(raised.value)
    assert "convert to conversations in the format step" in str(raised.value.advice)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "has no row"),
        ([{"messages": TALK}, {"text": "x"}], "mixes 1 conversations, 1 texts"),
    ],
    ids=["empty", "mixed"],
)
def test_a_file_of_nothing_or_of_several_kinds_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], told: str
) -> None:
    """A run learns from rows of one kind."""
    source = write_lines(tmp_path / "in.jsonl", rows)
    with pytest.raises(ValidationError, match=told):
        write_rows(source, tmp_path / "out.jsonl", text_field="text")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the key of the config."""
    with pytest.raises(ValidationError, match="cannot be read") as raised:
        write_rows(tmp_path / "none.jsonl", tmp_path / "out.jsonl", text_field="text")
    assert "dataset.path" in str(raised.value.advice)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """With the folder that can be another one."""
    source = write_lines(tmp_path / "in.jsonl", [{"messages": TALK}])
    with pytest.raises(ValidationError, match="/dev/full cannot be written: No space") as raised:
        write_rows(source, Path("/dev/full"), text_field="text")
    assert "training.output_dir" in str(raised.value.advice)
