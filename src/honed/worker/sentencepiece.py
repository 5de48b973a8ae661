"""BPE with byte fallback, as converted from a SentencePiece model (Llama 2, Mistral, Phi-3, Gemma).

Hugging Face merges pairs by their rank; llama.cpp merges any two neighbours whose text is a token, best
score first. Both agree when the list of merges holds every way to make a token, which converted
models have, and the score falls with the rank.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf

from honed.errors import UnsupportedError

SPACE: Final = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>\Z")
_UNREACHABLE: Final = -1e6
"""Score of what no merge makes."""


def is_sentencepiece(backend: dict[str, Any]) -> bool:
    """Whether a parsed tokenizer.json falls back to bytes, instead of working on bytes."""
    return bool(backend["model"].get("byte_fallback"))


def prefixes_space(backend: dict[str, Any], tokenizer: Any, folder: Path) -> bool:
    """Whether llama.cpp is to put a space before text at the start and after each special token.

    It knows all or nothing. `Prepend` is all, Gemma is nothing. `Metaspace` adds none before text that
    begins with a space, and by `prepend_scheme` "first" none after special tokens: there, what the chat
    template renders decides.

    Raises:
        UnsupportedError: the tokenizer treats spaces in a way that llama.cpp does not have.
    """
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    scheme = "unknown"
    match _flat(backend["normalizer"]), backend["pre_tokenizer"]:
        case [first, second], None if (first, second) == (prepend, escape):
            return True
        case [only], None if only == escape:
            return False
        case [only], {"type": "Split", "pattern": {"String": " "}} if only == escape:
            return False  # Gemma: nothing is left to split at
        case [], {"type": "Metaspace", "replacement": "▁", "prepend_scheme": found, "split": False}:
            scheme = found
    needed = {_is_prefixed(text, i, scheme) for i, text in _rendered_segments(tokenizer)}
    if scheme == "unknown" or len(needed) > 1:
        raise UnsupportedError(
            f"the tokenizer of {folder} treats spaces by {backend['normalizer']} and "
            f"{backend['pre_tokenizer']}, which llama.cpp does not have",
            advice="choose another base model",
        )
    return needed == {True}


def _is_prefixed(text: str, position: int, scheme: str) -> bool:
    if scheme == "never" or text.startswith((" ", SPACE)):
        return False
    return scheme == "always" or position == 0


def _rendered_segments(tokenizer: Any) -> Iterator[tuple[int, str]]:
    """The text between the special tokens of a chat, with its number; 0 is the very start."""
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    added = [re.escape(token.content) for token in tokenizer.added_tokens_decoder.values()]
    for position, segment in enumerate(re.split("|".join(added), text)):
        if segment:
            yield position, segment


def scores_and_types(
    backend: dict[str, Any],
    tokenizer: Any,
    tokens: list[str],
    types: list[gguf.TokenType],
    folder: Path,
) -> tuple[list[float], list[gguf.TokenType]]:
    """A score for each token, and its type where this form knows more than the general one.

    Raises:
        UnsupportedError: a byte has no token, or merges are missing that llama.cpp would do.
    """
    merges = [
        tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in backend["model"]["merges"]
    ]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    if len({token for token in tokens if _BYTE.match(token)}) < 256:
        raise UnsupportedError(f"the tokenizer of {folder} has no token for each of the 256 bytes")
    types = [_type(i, token, types[i], tokenizer, ranks) for i, token in enumerate(tokens)]
    _check_merges_are_complete(tokens, types, set(merges), folder)
    return [float(-ranks[token]) if token in ranks else _UNREACHABLE for token in tokens], types


def _flat(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    return list(normalizer["normalizers"]) if normalizer["type"] == "Sequence" else [normalizer]


def _type(
    token_id: int, token: str, general: gguf.TokenType, tokenizer: Any, ranks: dict[str, int]
) -> gguf.TokenType:
    if token_id == tokenizer.unk_token_id:
        return gguf.TokenType.UNKNOWN
    if _BYTE.match(token):
        return gguf.TokenType.BYTE
    if general is gguf.TokenType.USER_DEFINED and SPACE in token and token in ranks:
        # Gemma's runs of spaces: as an added token it would match a literal ▁ only; merges make it.
        return gguf.TokenType.NORMAL
    return general


def _check_merges_are_complete(
    tokens: list[str],
    types: list[gguf.TokenType],
    merges: set[tuple[str, ...]],
    folder: Path,
) -> None:
    """llama.cpp would join any two tokens that make a third."""
    normal = {t for t, kind in zip(tokens, types, strict=True) if kind is gguf.TokenType.NORMAL}
    for token in normal:
        for i in range(1, len(token)):
            pair = token[:i], token[i:]
            if pair[0] in normal and pair[1] in normal and pair not in merges:
                raise UnsupportedError(
                    f"the tokenizer of {folder} does not merge {pair[0]!r} and {pair[1]!r} to {token!r}, "
                    "and llama.cpp would: expected the merges of a SentencePiece model",
                    advice="choose another base model",
                )
