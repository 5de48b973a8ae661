"""Which tokens of a conversation count."""

import json
from pathlib import Path
from typing import Any

import pytest

from honed.errors import TrainingError
from honed.worker.base_model import load_tokenizer
from honed.worker.examples import Example, read_examples
from honed.worker.rows import CUT, DROPPED, IGNORED, Row, prepare, rows_of

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "You operate services."},
    {"role": "user", "content": "what is wrong?"},
    {"role": "assistant", "content": "disk: inspect"},
    {"role": "user", "content": "the disk is at 99 percent"},
    {"role": "assistant", "content": "disk: purge"},
]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "disk"}}}
WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "what is wrong?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "99 percent"},
    {"role": "assistant", "content": "Purging.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "purged"},
    {"role": "tool", "content": "purged"},
    {"role": "assistant", "content": "Done."},
]
# As Qwen3's: the reply that is being given carries a think block, past replies have lost it.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The prompt ends within a word, so that a token lies across the beginning of the reply.
GLUED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assist{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


def with_template(tiny_base: Path, template: str) -> Any:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = template
    return tokenizer


def counted(row: Row, tokenizer: Any) -> list[str]:
    """The runs of tokens that count, as text."""
    runs: list[list[int]] = [[]]
    for token, label in zip(row.input_ids, row.labels, strict=True):
        if label == IGNORED:
            runs.append([])
        else:
            assert label == token
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs if run]


def rows(messages: list[dict[str, Any]], tokenizer: Any, **more: Any) -> list[Row]:
    max_length = more.pop("max_length", 512)
    return rows_of([Example(messages, **more)], tokenizer, max_length=max_length)


def test_replies_and_their_ends_count(tokenizer: Any) -> None:
    """Of several turns, exactly the agent's words and the token that ends each turn."""
    (row,) = rows(TALK, tokenizer)
    assert counted(row, tokenizer) == ["disk: inspect<|im_end|>", "disk: purge<|im_end|>"]
    whole = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)
    assert row.input_ids == whole


def test_tool_calls_count_and_tool_answers_do_not(tokenizer: Any) -> None:
    """A tool call is the agent's own words; what the tool says is not."""
    (row,) = rows(WITH_TOOLS, tokenizer, tools=[{"type": "function", "function": {"name": "look"}}])
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "disk"}}\n</tool_call>'
    assert counted(row, tokenizer) == [
        f"{call}<|im_end|>",
        f"Purging.\n{call}\n{call}<|im_end|>",
        "Done.<|im_end|>",
    ]


@pytest.mark.parametrize("messages", [TALK, WITH_TOOLS], ids=["talk", "tools"])
def test_spans_are_those_of_the_templates_own_markers(
    tokenizer: Any, messages: list[dict[str, Any]]
) -> None:
    """Where a template says itself what the assistant generated, the spans are the same."""
    (row,) = rows(messages, tokenizer)
    marked = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    assert row.input_ids == marked["input_ids"]
    assert [label != IGNORED for label in row.labels] == [
        bool(m) for m in marked["assistant_masks"]
    ]


def test_only_named_turns_count(tokenizer: Any) -> None:
    """`trained_turns` leaves the other turns in the context."""
    (row,) = rows(TALK, tokenizer, trained_turns=frozenset({4}))
    assert counted(row, tokenizer) == ["disk: purge<|im_end|>"]


def test_template_that_forgets_gives_a_row_for_each_turn(tiny_base: Path) -> None:
    """Each reply is learned in the text in which it is given."""
    tokenizer = with_template(tiny_base, FORGETFUL)
    first, second = rows(TALK, tokenizer)
    assert counted(first, tokenizer) == ["<think>\n\n</think>\n\ndisk: inspect<|im_end|>"]
    assert counted(second, tokenizer) == ["<think>\n\n</think>\n\ndisk: purge<|im_end|>"]
    assert "<think>" not in tokenizer.decode(second.input_ids).partition("disk: purge")[0].replace(
        "<think>\n\n</think>\n\n", "", 1
    )


def test_token_across_the_beginning_is_the_prompts(tiny_base: Path) -> None:
    """A token that the prompt has begun is never asked of the model."""
    tokenizer = with_template(tiny_base, GLUED)
    (row,) = rows(
        [{"role": "user", "content": "hm"}, {"role": "assistant", "content": "disk"}], tokenizer
    )
    assert "assistant" in [tokenizer.decode([token]) for token in row.input_ids]
    assert counted(row, tokenizer) == [": disk<|im_end|>"]


def test_long_row_ends_with_the_last_reply_that_fits(tokenizer: Any) -> None:
    """Each reply that is learned stands behind all that was said before it, and none is cut in two."""
    (whole,) = rows(TALK, tokenizer)
    first_end = next(i for i, label in enumerate(whole.labels) if label != IGNORED)
    while whole.labels[first_end] != IGNORED:
        first_end += 1
    last_end = len(whole.labels) - whole.labels[::-1].index(whole.input_ids[first_end - 1])
    for max_length in range(16, len(whole.input_ids) + 1):
        found = rows(TALK, tokenizer, max_length=max_length)
        fits = len(whole.input_ids) if max_length == len(whole.input_ids) else last_end
        end = fits if max_length >= fits else first_end if max_length >= first_end else 0
        assert [row.input_ids for row in found] == ([whole.input_ids[:end]] if end else [])
        for row in found:
            assert counted(row, tokenizer) == counted(whole, tokenizer)[: 1 + (end > first_end)]


def test_long_conversation_can_be_left_out_whole(tiny_base: Path) -> None:
    """With `drop` none of its rows stays, also where a template makes several; others are untouched."""
    tokenizer = with_template(tiny_base, FORGETFUL)
    examples = [Example(TALK), Example(TALK[:3])]
    short, long = rows(TALK, tokenizer)
    max_length = len(long.input_ids) - 3
    dropped = prepare(examples, tokenizer, max_length=max_length, too_long="drop")
    assert [row.example for row in dropped.rows] == [1]
    assert dropped.dropped == {DROPPED: short.num_targets + long.num_targets}
    cut = prepare(examples, tokenizer, max_length=max_length)
    assert [row.example for row in cut.rows] == [0, 1]
    assert cut.dropped == {CUT: long.num_targets}


def test_row_without_a_reply_is_left_out(tokenizer: Any) -> None:
    """What cutting leaves without a word of the agent teaches nothing."""
    assert rows(TALK, tokenizer, max_length=16) == []


def test_what_is_cut_is_counted(tokenizer: Any) -> None:
    """Kept and dropped tokens add up to the replies, whether a row keeps some or none."""
    (whole,) = rows(TALK, tokenizer)
    for max_length in (len(whole.input_ids), len(whole.input_ids) - 6, 16):
        prepared = prepare([Example(TALK)], tokenizer, max_length=max_length)
        assert prepared.num_targets + prepared.dropped[CUT] == whole.num_targets
        assert len(prepared.rows) == (max_length > 16)


def test_one_bad_conversation_costs_no_other(tokenizer: Any) -> None:
    """A conversation that cannot be rendered is left out with its reason, the others are learned."""
    image = [{"role": "user", "content": [{"type": "image_url"}]}, TALK[2]]
    prepared = prepare([Example(image), Example(TALK)], tokenizer, max_length=512)
    assert [row.example for row in prepared.rows] == [1]
    ((reason, count),) = prepared.dropped.items()
    assert "image_url" in reason
    assert count == len(tokenizer.encode("disk: inspect", add_special_tokens=False))


def test_opening_turn_answers_nothing(tokenizer: Any) -> None:
    """A conversation that the agent opens is learned from its second reply on."""
    (row,) = rows([{"role": "assistant", "content": "Hello."}, *TALK[1:3]], tokenizer)
    assert counted(row, tokenizer) == ["disk: inspect<|im_end|>"]


def test_line_that_is_no_conversation_is_named(tmp_path: Path) -> None:
    """The error says which line of which file."""
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n" + '{"prompt": "x"}\n')
    with pytest.raises(TrainingError, match=r"data\.jsonl:2"):
        read_examples(path)


def test_parts_and_developer_are_read_as_the_server_reads_them(
    tmp_path: Path, tokenizer: Any
) -> None:
    """Parts are joined by a newline, `developer` is `system`."""
    path = tmp_path / "data.jsonl"
    parts = [{"type": "text", "text": "what is"}, {"type": "text", "text": "wrong?"}]
    messages = [
        {"role": "developer", "content": TALK[0]["content"]},
        {"role": "user", "content": parts},
    ]
    path.write_text(json.dumps({"messages": [*messages, *TALK[2:]]}) + "\n")
    joined = [TALK[0], {"role": "user", "content": "what is\nwrong?"}, *TALK[2:]]
    assert rows_of(read_examples(path), tokenizer, max_length=512) == rows(joined, tokenizer)
