"""Which tokens of a stand-alone run's rows count, and how they begin."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from honed.domain.chat_templates import TEMPLATES
from honed.domain.running import TemplateName
from honed.domain.train_settings import TrainSettings
from honed.worker.base_model import load_tokenizer
from honed.worker.chat_templates import mismatches
from honed.worker.examples import Example
from honed.worker.rows import IGNORED, rows_of
from honed.worker.run_rows import read_file, text_row, with_one_bos

TALK = [
    {"role": "system", "content": "You operate services."},
    {"role": "user", "content": "alert 1"},
    {"role": "assistant", "content": "disk: inspect"},
    {"role": "user", "content": "the disk is full"},
    {"role": "assistant", "content": "disk: purge"},
]


def tokenizer_of(base: Path, name: TemplateName | None = None, *, bos: bool = False) -> Any:
    """The tiny model's tokenizer; with `bos` it puts a token before every text, as Llama's and Gemma's do."""
    found = load_tokenizer(base, template=None if name is None else TEMPLATES[name])
    if bos:
        from tokenizers.processors import TemplateProcessing

        found.add_special_tokens({"bos_token": "<bos>"})
        found.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", found.bos_token_id)]
        )
    return found


ENDS: dict[TemplateName, str] = {
    "chatml": "<|im_end|>",
    "zephyr": "<|im_end|>",
    "llama-3": "<|eot_id|>",
    "gemma-3": "<end_of_turn>",
    "mistral": "<|im_end|>",
}
"""What closes a reply; zephyr and mistral take the model's own end."""


@pytest.mark.feature("TR-061", "TR-048")
@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_only_the_replies_count_under_each_template(tiny_base: Path, name: TemplateName) -> None:
    """With what ends them; all else has the label -100."""
    tokenizer = tokenizer_of(tiny_base, name)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|eot_id|>", "<end_of_turn>", "<|im_end|>"]}
    )
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
    (row,) = rows_of([Example(TALK)], tokenizer, max_length=512)
    spans, last = [], IGNORED
    for token, label in zip(row.input_ids, row.labels, strict=True):
        assert label in (IGNORED, token)
        if label != IGNORED:
            if last == IGNORED:
                spans.append("")
            spans[-1] += tokenizer.decode([token])
        last = label
    end = ENDS[name]
    assert [span.strip() for span in spans] == [f"disk: inspect{end}", f"disk: purge{end}"]


@pytest.mark.feature("TR-058")
@pytest.mark.parametrize("name", [None, "llama-3", "gemma-3", "chatml"])
def test_a_row_begins_with_exactly_one_beginning(
    tiny_base: Path, name: TemplateName | None
) -> None:
    """Whether its template writes one or not; it never counts, and twice is once."""
    tokenizer = tokenizer_of(tiny_base, name, bos=True)
    (row,) = rows_of([Example(TALK)], tokenizer, max_length=512)
    begun = with_one_bos(row, tokenizer)
    assert with_one_bos(begun, tokenizer) == begun
    assert begun.input_ids.count(tokenizer.bos_token_id) == 1
    assert (begun.input_ids[0], begun.labels[0]) == (tokenizer.bos_token_id, IGNORED)
    assert begun.num_targets == row.num_targets


@pytest.mark.feature("TR-058", "TR-047")
def test_of_a_whole_text_all_counts_but_its_beginning(tiny_base: Path) -> None:
    """It has one beginning, written in it or not, and is closed once."""
    tokenizer = tokenizer_of(tiny_base, bos=True)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    plain = text_row("disk: inspect", tokenizer)
    assert plain == text_row("<bos>disk: inspect<|im_end|>", tokenizer)
    assert plain == text_row("<bos><bos>disk: inspect", tokenizer)
    assert (plain.input_ids[0], plain.input_ids[-1]) == (bos, eos)
    assert plain.labels == [IGNORED, *plain.input_ids[1:]]
    closed = text_row("disk: inspect<|im_end|>\n", tokenizer)
    assert closed.input_ids.count(eos) == 1


@pytest.mark.feature("TR-058")
def test_without_a_beginning_token_none_is_put_there(tiny_base: Path) -> None:
    """The model was never shown one."""
    tokenizer = tokenizer_of(tiny_base)
    row = text_row("disk: inspect", tokenizer)
    assert tokenizer.decode(row.input_ids) == "disk: inspect<|im_end|>"


@pytest.mark.feature("TR-047", "TR-049")
def test_whole_texts_are_tokenised_together(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one call that may take threads, as many as `num_proc`; the rows are those of one text after another."""
    texts = [f"disk {number}: inspect" for number in range(40)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tokenizer_of(tiny_base, bos=True)
    asked: list[tuple[int, str | None]] = []
    ask = type(tokenizer).__call__

    def told(self: Any, text: Any, **how: Any) -> Any:
        if isinstance(text, list):
            asked.append((len(text), os.environ.get("TOKENIZERS_PARALLELISM")))
        return ask(self, text, **how)

    monkeypatch.setattr(type(tokenizer), "__call__", told)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    settings = TrainSettings(max_length=512)
    rows = read_file(path, settings).material(tokenizer, settings).rows
    assert asked == [(40, "true")]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert rows == [text_row(text, tokenizer, number) for number, text in enumerate(texts)]


@pytest.mark.feature("TR-047")
def test_a_text_is_cut_where_it_is_too_long(tiny_base: Path, tmp_path: Path) -> None:
    """What is lost is counted."""
    tokenizer = tokenizer_of(tiny_base)
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "disk " * 200}) + "\n" + json.dumps({"text": "cpu"}) + "\n")
    settings = TrainSettings(max_length=64)
    read = read_file(path, settings)
    material = read.material(tokenizer, settings)
    assert (read.method, read.num_examples) == ("sft", 2)
    long, short = material.rows
    assert long.num_targets == 63
    assert short.example == 1
    assert material.dropped["beyond max_length"] > 0


@pytest.mark.feature("TR-048", "TR-091")
def test_a_template_that_does_not_fit_the_model_is_told(tiny_base: Path) -> None:
    """By the marks that its tokenizer does not know, and by what the model's own renders otherwise."""
    own = tokenizer_of(tiny_base).chat_template
    assert not mismatches("chatml", own, tokenizer_of(tiny_base, "chatml"))
    found = mismatches("llama-3", own, tokenizer_of(tiny_base, "llama-3"))
    assert len(found) == 2
    assert "its tokenizer has no <|start_header_id|> and no <|eot_id|>" in found[0]
    assert "does not match the model's own" in found[1]
