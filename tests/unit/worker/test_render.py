"""Conversations as training takes them, token by token."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.domain.job import RenderJob
from honed.domain.rendered import RenderedExample
from honed.worker.base_model import load_tokenizer
from honed.worker.examples import read_examples
from honed.worker.render import GLUE, NOT_ASSISTANT, NOT_CHOSEN, OPENING, ROW_LEFT_OUT, render
from honed.worker.renderings import FOLLOWS_ITSELF
from honed.worker.rows import CUT, DROPPED, encode, prepare

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You operate services."},
    {"role": "user", "content": "what is wrong?"},
    {"role": "assistant", "content": "disk: inspect"},
    {"role": "user", "content": "the disk is at 99 percent 🙂"},
    {"role": "assistant", "content": "disk: purge"},
    {"role": "user", "content": "thank you"},
    {"role": "assistant", "content": "memory: restart"},
]
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def shown(
    base: Path, data: Path, messages: list[dict[str, Any]] = TALK, **more: Any
) -> RenderedExample:
    job = {"max_length": 512, "left_out": ()} | {k: more.pop(k) for k in [*more] if k in JOB}
    data.write_text(json.dumps({"messages": messages} | more) + "\n")
    made = RenderJob(base_model=str(base), data_path=str(data), result_path="", **job)
    return render(made).examples[0]


JOB = ("max_length", "left_out", "too_long")


def dropped(example: RenderedExample) -> dict[str, tuple[int, ...]]:
    return {drop.reason: drop.turns for drop in example.drops}


def kept(example: RenderedExample) -> list[str]:
    return [s.text for row in example.rows for s in row.segments if s.state == "kept"]


def check(
    example: RenderedExample, base: Path, data: Path, max_length: int = 512, **more: Any
) -> None:
    """What is shown is what is trained: texts to the letter, tokens to the last."""
    tokenizer = load_tokenizer(base)
    prepared = prepare(read_examples(data), tokenizer, max_length=max_length, **more)
    assert example.num_kept == prepared.num_targets
    assert example.num_eligible == prepared.num_targets + sum(prepared.dropped.values())
    for row in example.rows:
        assert row.num_tokens == len(encode(tokenizer, "".join(s.text for s in row.segments)))
    in_rows = sum(drop.num_tokens for drop in example.drops if drop.reason in REASONS)
    assert in_rows + example.num_kept <= example.num_tokens


REASONS = (GLUE, NOT_ASSISTANT, ROW_LEFT_OUT)


def test_replies_are_kept_and_the_rest_has_its_reason(tiny_base: Path, data: Path) -> None:
    """A whole conversation: each token is kept or explained."""
    example = shown(tiny_base, data)
    assert kept(example) == [
        "disk: inspect<|im_end|>",
        "disk: purge<|im_end|>",
        "memory: restart<|im_end|>",
    ]
    assert dropped(example) == {NOT_ASSISTANT: (), GLUE: (2, 4, 6)}
    assert example.num_kept == example.num_eligible
    assert example.num_kept + sum(d.num_tokens for d in example.drops) == example.num_tokens
    check(example, tiny_base, data)


def test_what_lies_beyond_the_cut_is_eligible_and_dropped(tiny_base: Path, data: Path) -> None:
    """Later turns that a row has no room for are counted, turn by turn."""
    whole = shown(tiny_base, data)
    size = whole.num_tokens - whole.rows[0].segments[-2].num_tokens - 1
    example = shown(tiny_base, data, max_length=size)
    assert dropped(example)[f"{CUT} {size}"] == (6,)
    assert example.num_eligible == whole.num_eligible
    assert example.num_kept < example.num_eligible
    check(example, tiny_base, data, size)


def test_conversation_that_is_dropped_for_its_length_says_so(tiny_base: Path, data: Path) -> None:
    """With `drop` each of its replies is eligible and dropped."""
    size = shown(tiny_base, data).num_tokens - 3
    example = shown(tiny_base, data, max_length=size, too_long="drop")
    assert dropped(example)[f"{DROPPED} {size}"] == (2, 4, 6)
    assert (example.num_kept, [row.is_trained for row in example.rows]) == (0, [False])
    check(example, tiny_base, data, size, too_long="drop")


def test_row_in_which_nothing_counts_is_left_out_whole(tiny_base: Path, data: Path) -> None:
    """A conversation whose replies all lie beyond the cut is not trained on."""
    example = shown(tiny_base, data, max_length=16)
    assert [row.is_trained for row in example.rows] == [False]
    assert dropped(example) == {
        ROW_LEFT_OUT: (),
        f"{CUT} 16": (2, 4, 6),
        GLUE: (2, 4, 6),
    }
    assert example.num_kept == 0
    check(example, tiny_base, data, 16)


def test_turn_that_the_learn_model_left_out_says_why(tiny_base: Path, data: Path) -> None:
    """It stays in the text, is not eligible, and its reason is told."""
    example = shown(
        tiny_base, data, trained_turns=[2, 6], left_out=({4: "its sender is untrusted"},)
    )
    assert dropped(example)[f"{NOT_CHOSEN}: its sender is untrusted"] == (4,)
    assert kept(example) == ["disk: inspect<|im_end|>", "memory: restart<|im_end|>"]
    assert example.num_kept == example.num_eligible
    check(example, tiny_base, data)


def test_opening_and_double_turns_are_told(tiny_base: Path, data: Path) -> None:
    """A turn that answers nothing is not eligible; one that follows itself is, and is lost."""
    messages = [{"role": "assistant", "content": "Hello."}, *TALK[1:3], TALK[4]]
    example = shown(tiny_base, data, messages)
    assert dropped(example)[OPENING] == (0,)
    assert dropped(example)[FOLLOWS_ITSELF] == (3,)
    assert kept(example) == ["disk: inspect<|im_end|>"]
    assert example.num_kept < example.num_eligible
    check(example, tiny_base, data)


def test_forgetful_template_shows_each_reply_once(tiny_base: Path, tmp_path: Path) -> None:
    """With a template that shows past turns otherwise, each reply is kept in a row of its own."""
    base = tmp_path / "forgetful"
    base.mkdir()
    for path in tiny_base.iterdir():
        (base / path.name).hardlink_to(path)
    (base / "chat_template.jinja").unlink()
    (base / "chat_template.jinja").write_text(FORGETFUL)
    example = shown(base, tmp_path / "data.jsonl")
    assert len(example.rows) == 3
    assert [text.removeprefix("<think>\n\n</think>\n\n") for text in kept(example)] == [
        "disk: inspect<|im_end|>",
        "disk: purge<|im_end|>",
        "memory: restart<|im_end|>",
    ]
    check(example, base, tmp_path / "data.jsonl")
