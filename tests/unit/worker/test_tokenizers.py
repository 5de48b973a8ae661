"""The real llama-server tokenises as the tokenizer that the GGUF was made from."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from honed.worker.gguf_base import write_base
from tests.tiny_models import offline
from tests.unit.worker.llama import llama_server
from tests.unit.worker.tokenizer_forms import FORMS, STRINGS


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
