"""A tokenizer to GGUF's metadata, in the two forms that language models use.

Byte-level BPE (`gpt2` in GGUF) keeps its merges and is split beforehand (`honed.worker.pre_tokenizers`).
BPE with byte fallback, made from a SentencePiece model, becomes `llama`: llama.cpp merges by the score of
what a merge gives (`honed.worker.sentencepiece`).

The chat template loses its `{% generation %}` markers.
"""

import json
from pathlib import Path
from typing import Any, Final

import gguf

from honed.errors import UnsupportedError
from honed.worker.architectures import HAND_CONVERSION
from honed.worker.pre_tokenizers import pre_tokenizer_name
from honed.worker.sentencepiece import is_sentencepiece, prefixes_space, scores_and_types
from honed.worker.template import without_generation_markers

_ENDS_BY_NAME: Final = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<EOT>"}
    | {"<|endoftext|>", "</s>", "<|eom_id|>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"}
)
"""Tokens that llama.cpp takes for the end of a generation by their text (src/llama-vocab.cpp)."""
_PHI3: Final = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Tokens that do not swallow the space after them where all others do."""


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, vocab_size: int, folder: Path) -> None:
    """Write vocabulary, special tokens and chat template of a transformers tokenizer.

    Raises:
        UnsupportedError: llama.cpp would tokenise otherwise.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise refused(folder, f"of type {backend['model']['type']}", "BPE")
    tokens, types = _vocabulary(tokenizer, vocab_size)
    if is_sentencepiece(backend):
        scores, types = scores_and_types(backend, tokenizer, tokens, types, folder)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(prefixes_space(backend, tokenizer, folder))
    else:
        _write_byte_level(writer, backend, folder)
    _check_stripping(tokenizer, folder)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _write_special_tokens(writer, tokenizer, folder)
    writer.add_chat_template(without_generation_markers(tokenizer.chat_template))


def llama_cpp_name(tokenizer: Any) -> str:
    """A neutral `general.name`; `phi-3` makes llama.cpp strip the space after special tokens."""
    return "phi-3" if _swallowing(tokenizer) else "base"


def refused(folder: Path, found: str, expected: str) -> UnsupportedError:
    """The error for a tokenizer that llama.cpp would read otherwise."""
    return UnsupportedError(
        f"the tokenizer of {folder} is {found}: expected {expected}", advice=HAND_CONVERSION
    )


def _vocabulary(tokenizer: Any, vocab_size: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Tokens in the order of their ids with their types; ids without a token are filled up."""
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for token_id in range(vocab_size):
        tokens.append(by_id.get(token_id, f"[PAD{token_id}]"))
        if token_id not in by_id:
            types.append(gguf.TokenType.UNUSED)
        elif token_id in added:
            special = added[token_id].special
            types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL)
    return tokens, types


def _write_byte_level(writer: gguf.GGUFWriter, backend: dict[str, Any], folder: Path) -> None:
    # Qwen's NFC is let pass: llama.cpp does not normalise, which changes text that is not in NFC.
    if (normalizer := backend["normalizer"]) not in (None, {"type": "NFC"}):
        raise refused(folder, f"normalised by {normalizer}", "no normaliser, or NFC")
    name = pre_tokenizer_name(backend)
    if name is None:
        ignoring = backend["model"].get("ignore_merges", False)
        raise refused(
            folder,
            f"split by the pre-tokenizer {backend['pre_tokenizer']} with ignore_merges {ignoring}",
            "one that llama.cpp is known to have",
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    merges = backend["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def _check_stripping(tokenizer: Any, folder: Path) -> None:
    """llama.cpp strips spaces round special tokens only as Phi-3 has it."""
    stripping = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.lstrip or token.rstrip or token.single_word
    }
    if stripping and not _swallowing(tokenizer):
        raise refused(
            folder,
            f"with added tokens that strip spaces ({', '.join(sorted(stripping)[:3])})",
            "none that do, or all as in Phi-3",
        )


def _swallowing(tokenizer: Any) -> bool:
    """Whether exactly those tokens swallow the space after them that do in Phi-3."""
    added = tokenizer.added_tokens_decoder.values()
    by_content = {token.content: token for token in added}
    return (
        by_content.keys() >= _PHI3 | {"</s>"}
        and all(token.rstrip == (token.content not in _PHI3) for token in added)
        and not any(token.lstrip or token.single_word for token in added)
    )


def _write_special_tokens(writer: gguf.GGUFWriter, tokenizer: Any, folder: Path) -> None:
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    others = _other_ends(tokenizer, folder)
    for add, token_id in zip(
        (writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False
    ):
        add(token_id)
    added = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(
        added[0] == tokenizer.bos_token_id and _chat_begins_with_bos(tokenizer)
    )
    writer.add_add_eos_token(added[-1] == tokenizer.eos_token_id)


def _chat_begins_with_bos(tokenizer: Any) -> bool:
    """llama-server adds a missing one to every prompt; transformers adds none to a rendered chat."""
    text: str = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    return text.startswith(tokenizer.bos_token)


def _other_ends(tokenizer: Any, folder: Path) -> list[int]:
    """Tokens that end a generation by generation_config.json and that llama.cpp would not know."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    ids: list[int] = found if isinstance(found, list) else []
    return [
        token_id
        for token_id in ids
        if token_id != tokenizer.eos_token_id
        and tokenizer.convert_ids_to_tokens(token_id) not in _ENDS_BY_NAME
    ]
