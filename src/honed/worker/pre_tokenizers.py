"""How a byte-level tokenizer splits text before merging, by the name that llama.cpp has for it.

A wrong name is silent and ruins text, so only forms that are known here are written. The expressions are
those of published tokenizer.json files; llama.cpp has its own of each (src/llama-vocab.cpp,
`llm_tokenizer_bpe`) and this table follows its reading of a name (`llama_vocab::impl::load`), including
whether a word that is a token as a whole is taken without merging (`ignore_merges`).
"""

from typing import Any, Final, NamedTuple

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LOWER_ENDED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_UPPER_STARTED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"

QWEN2: Final = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
"""Qwen 2, 2.5 and 3: digits one by one."""
LLAMA3: Final = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
"""Llama 3, SmolLM3, LFM2, GLM-4, OLMo 2, Phi-4 (cl100k): digits by threes from the left."""
TEKKEN: Final = rf"{_LOWER_ENDED}|{_UPPER_STARTED}|\p{{N}}|{_REST_WITH_SLASHES}"
"""Mistral Nemo and later."""
GPT_4O: Final = (
    rf"{_LOWER_ENDED}{_CONTRACTIONS}?|{_UPPER_STARTED}{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_REST_WITH_SLASHES}"
)
"""Phi-4-mini (o200k)."""


class _Names(NamedTuple):
    """llama.cpp's names of one form; None where it has none."""

    merging: str | None
    ignoring_merges: str | None


PRE_TOKENIZERS: Final[dict[tuple[str, ...], _Names]] = {
    ("bytes by regex",): _Names("gpt-2", None),
    # SmolLM 1 and 2, Granite 3, StarCoder
    ("digits", "bytes by regex"): _Names("smollm", None),
    (QWEN2, "bytes"): _Names("qwen2", None),
    (LLAMA3, "bytes"): _Names("dbrx", "llama-bpe"),
    (TEKKEN, "bytes"): _Names(None, "tekken"),
    (GPT_4O, "bytes"): _Names("gpt-4o", None),
}
"""The steps of a pre-tokenizer, a Split given by its expression."""


def pre_tokenizer_name(backend: dict[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a parsed tokenizer.json; None when it has none."""
    steps = tuple(_step(step) for step in _flat(backend["pre_tokenizer"]))
    names = PRE_TOKENIZERS.get(steps)
    if names is None:
        return None
    return names.ignoring_merges if backend["model"].get("ignore_merges") else names.merging


def _flat(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _flat(part)]
    return [pre_tokenizer]


def _step(step: dict[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": by_regex}:
            return "bytes by regex" if by_regex else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": regex}, "behavior": how, "invert": inverted}:
            # The expressions cover any text, so that keeping the matches alone is the same.
            if (how, inverted) in (("Isolated", False), ("Removed", True)):
                # Some files hold the line ends themselves instead of their escapes.
                return str(regex).replace("\r", r"\r").replace("\n", r"\n")
    return "unknown"
