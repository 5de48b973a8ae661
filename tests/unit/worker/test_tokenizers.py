"""The real llama-server tokenises as the tokenizer that the GGUF was made from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import httpx
import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers import pre_tokenizers as pre

from honed.errors import TrainingError
from honed.worker.gguf_base import write_base
from honed.worker.pre_tokenizers import QWEN2
from tests.tiny_models import offline
from tests.unit.worker.llama import llama_server
from tests.unit.worker.tokenizer_forms import (
    FORMS,
    STRINGS,
    TEMPLATE,
    byte_level,
    sentencepiece,
    split,
    wrapped,
)


def make_base(tokenizer: Any, folder: Path) -> Path:
    """A tiny Llama for a tokenizer."""
    offline()
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 8,  # as models round theirs up
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def served_ids(client: httpx.Client, text: str, *, add_special: bool = False) -> list[int]:
    body = {"content": text, "add_special": add_special}
    answer = client.post("/tokenize", json=body).raise_for_status().json()
    ids: list[int] = answer["tokens"]
    return ids


@pytest.mark.parametrize("form", FORMS)
def test_server_tokenises_as_transformers(form: str, tmp_path: Path) -> None:
    """Every hard string has the same ids on both sides, with and without what the tokenizer adds."""
    make, asked = FORMS[form]
    tokenizer = make()
    base = make_base(tokenizer, tmp_path / "base")
    write_base(base, tmp_path / "base.gguf")
    texts = [text for text in map(asked, STRINGS) if text is not None]
    assert len(texts) > 40
    with llama_server(tmp_path / "base.gguf", log=tmp_path / "log") as client:
        for text in texts:
            expected = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert served_ids(client, text) == expected, repr(text)
        added = served_ids(client, "hi", add_special=True)
        assert added[0] == tokenizer("hi")["input_ids"][0]


def changed(tokenizer: Any, **model: Any) -> Any:
    """The tokenizer with other settings of its BPE model."""
    form = json.loads(tokenizer.backend_tokenizer.to_str())
    form["model"] |= model
    return wrapped(Tokenizer.from_str(json.dumps(form)), add_bos=False)


def incomplete() -> Any:
    """SentencePiece-like, but with one way only to make each piece, as trained by `tokenizers`."""
    whole = FORMS["gemma"].make()
    merges = json.loads(whole.backend_tokenizer.to_str())["model"]["merges"]
    return changed(
        whole, merges=list({left + right: [left, right] for left, right in merges}.values())
    )


def stripping() -> Any:
    tokenizer = FORMS["gpt-2"].make()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: byte_level(*split(r"\w+|\W+")), "pre-tokenizer"),
        (lambda: byte_level(*split(QWEN2), ignore_merges=True), "ignore_merges True"),
        (stripping, "strip spaces"),
        (incomplete, "does not merge"),
        (
            lambda: sentencepiece(
                pre_tokenizer=pre.Metaspace(replacement="▁", prepend_scheme="first"),
                template=TEMPLATE.replace("{{ bos_token }}", ""),
            ),
            "treats spaces",
        ),
        (
            lambda: sentencepiece(
                pre_tokenizer=pre.Metaspace(replacement="▁", prepend_scheme="first", split=False),
                template=TEMPLATE.replace("{{ bos_token }}", "Chat:<s>"),
            ),
            "treats spaces",
        ),
    ],
    ids=["other split", "no such form", "stripping", "incomplete", "words", "first and later"],
)
def test_tokenizer_that_llama_cpp_reads_otherwise_is_refused(
    tmp_path: Path, make: Callable[[], Any], said: str
) -> None:
    """The refusal says what is unknown, and no file is left."""
    base = make_base(make(), tmp_path / "base")
    with pytest.raises(TrainingError, match=said) as raised:
        write_base(base, tmp_path / "base.gguf")
    assert raised.value.advice
    assert not (tmp_path / "base.gguf").exists()


def test_chat_without_bos_gets_none_from_the_server(tmp_path: Path) -> None:
    """llama-server would put <s> before a prompt whose template has none, where training saw none."""
    tokenizer = FORMS["llama 3"].make()
    tokenizer.chat_template = TEMPLATE.replace("{{ bos_token }}", "")
    base = make_base(tokenizer, tmp_path / "base")
    write_base(base, tmp_path / "base.gguf")
    with llama_server(tmp_path / "base.gguf", log=tmp_path / "log") as client:
        assert served_ids(client, "hi", add_special=True) == served_ids(client, "hi")


def test_ends_of_a_generation_are_those_of_the_folder(tmp_path: Path) -> None:
    """GLM-4 ends its turns with tokens that llama.cpp does not know as ends."""
    tokenizer = FORMS["gpt-2"].make()
    base = make_base(tokenizer, tmp_path / "base")
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    write_base(base, tmp_path / "base.gguf")
    fields = gguf.GGUFReader(tmp_path / "base.gguf").fields
    assert fields["tokenizer.ggml.eot_token_id"].contents() == ends[2]
    assert "tokenizer.ggml.eom_token_id" not in fields
