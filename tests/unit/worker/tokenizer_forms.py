"""Tokenizers of the forms that published models bring, each trained on the spot on text in many scripts."""
# ruff: noqa: RUF001 - text in many scripts

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import TemplateProcessing

from honed.worker.pre_tokenizers import GPT_4O, LLAMA3, QWEN2, TEKKEN

TEXTS: Final = (
    "The quick brown fox doesn't jump over 13 lazy dogs, they've said; it's 2026 and we'll see I'm right. ",
    "THE USER'S ACCOUNT WASN'T FOUND: ERROR 404. You'RE done! camelCase snake_case HTTPServer iPhone ",
    "def main(argv: list[str]) -> int:\n    return sum(int(x) ** 2 for x in argv)\n\n\tif x: pass\r\n",
    "Größe Übung naïve café Straße Łódź señor ÉCOLE Ångström déjà-vu ŒUVRE ",
    "日本語のテキストです。中文文本，韓國語 한국어 문장입니다. ",
    "នេះជាអត្ថបទខ្មែរ ភាសាខ្មែរ हिन्दी में पाठ ภาษาไทย বাংলা ",
    "русский текст ЕЩЁ РАЗ ελληνικά ΑΛΦΑ العربية עברית ",
    "🙂 👩‍💻 🇨🇭 ✅ 🚀🚀 ❤️ (emoji) ",
    "1 22 333 4444 55555 666666 7777777 3.14159 1,000,000 0x1F ½ ² Ⅳ ٢٣ ",
    "    indented\n        more\n\n\nlines   with    runs     of spaces\t\ttabs ",
    '{"name": "book", "arguments": {"seats": 2, "to": [null, true]}} https://a.example/b?c=d&e=%20#f ',
    "...!!! ??? -- --- *** ((( ))) <div class='x'>&amp;</div> C:\\path\\to $5.00 50% a@b.c ",
)
STRINGS: Final = (
    *TEXTS,
    *(text.strip() for text in TEXTS),
    *("".join(TEXTS)[i : i + 37] for i in range(0, 700, 31)),
    "a",
    " ",
    "  ",
    "\n",
    "\n\n \n",
    " \t \n\n  x",
    "it's It'S we'Re I'D 'tis ''s don't' O'Neill's y'all've",
    "123456789 1234 12a34b 9\n9",
    "word\u00a0no-break\u2003em\u200bzero\u3000wide\u2028line",
    "control \x01\x02\x1b[0m \x7f characters",
    "\ufeffbom \u202eright to left\u202c",
    "unseen: ᚠᛇᚻ ꧋ 𝔘𝔫𝔦 𐍈 🜁",
    "x" * 70,
    " " * 33 + "x" + "=" * 40,
    "<s>hi</s> <|im_start|>user\nhello<|im_end|>\n",
    "a<|im_end|>b <|im_end|> c<|im_end|>\n\nd",
    "<tool_call>\n{}\n</tool_call>",
    "▁literal ▁▁ marks",
    "<0x0A> is no byte",
)

SPECIAL: Final = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
PLAIN_ADDED: Final = ("<tool_call>", "</tool_call>")
TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
)
SPACED_TEMPLATE: Final = TEMPLATE.replace("{{ m.role", "{{ ' ' + m.role")


def wrapped(backend: Tokenizer, *, add_bos: bool, template: str = TEMPLATE) -> Any:
    """The transformers tokenizer, with special tokens and, if asked for, <s> in front."""
    from transformers import PreTrainedTokenizerFast

    if add_bos:
        bos = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        chat_template=template,
    )


def byte_level(
    *steps: Any, ignore_merges: bool = False, add_bos: bool = False, nfc: bool = False
) -> Any:
    """Byte-level BPE split by the given steps.

    Nothing but the steps keeps digits apart: it is trained without them. A tenth of the merges is taken
    away, so that some tokens are found as whole words only, if at all.
    """
    backend = Tokenizer(models.BPE())
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    form = json.loads(backend.to_str())
    form["model"]["ignore_merges"] = ignore_merges
    del form["model"]["merges"][5::10]
    backend = Tokenizer.from_str(json.dumps(form))
    backend.pre_tokenizer = pre.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    backend.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_ADDED])
    return wrapped(backend, add_bos=add_bos)


def split(regex: str) -> tuple[Any, Any]:
    """Split by an expression, as most published tokenizers do."""
    return (
        pre.Split(Regex(regex), behavior="isolated"),
        pre.ByteLevel(add_prefix_space=False, use_regex=False),
    )


def sentencepiece(
    *,
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    stripping: bool = False,
    template: str = TEMPLATE,
) -> Any:
    """BPE with byte fallback and a converted SentencePiece model's merges: all ways to each piece.

    Args:
        stripping: special tokens swallow the space after them, as in Phi-3.
    """
    pieces = _pieces()
    alphabet = sorted({letter for piece in pieces for letter in piece} | {"▁"})
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *alphabet]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [
        (piece[:i], piece[i:])
        for piece in pieces
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    ]
    model = models.BPE(
        vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"
    )
    backend = Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    for token in SPECIAL:
        swallows = stripping and token not in ("<unk>", "<s>", "<|endoftext|>")
        backend.add_special_tokens([AddedToken(token, normalized=False, rstrip=swallows)])
    backend.add_tokens([AddedToken(t, normalized=False, rstrip=stripping) for t in PLAIN_ADDED])
    return wrapped(backend, add_bos=True, template=template)


def _pieces() -> list[str]:
    """What merges make, in the order in which they were learned, runs of spaces among them."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre.Split(Regex("▁*[^▁]*"), behavior="isolated")
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    return ["".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def _space(*steps: Any) -> Any:
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _metaspace(scheme: str) -> Any:
    return pre.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)


def _digits() -> Any:
    return pre.Digits(individual_digits=True)


def any_text(text: str) -> str | None:
    """The form is exact."""
    return text


def unmarked(text: str) -> str | None:
    """llama.cpp takes letters beyond ASCII for upper and lower case alike, and marks for no letters."""
    kinds = {unicodedata.category(letter) for letter in text if not letter.isascii()}
    return None if kinds & {"Lu", "Lt", "Lm", "Mn", "Mc", "Me"} else text


def after_special(text: str) -> str | None:
    """As chats are: a special token at the start."""
    return f"<s>{text}"


def unspaced(text: str) -> str | None:
    """As the template has it: no text between special tokens begins with a space."""
    return None if re.search(r"(^|>)[ ▁]", text) else text


def spaced(text: str) -> str | None:
    """As the template has it: all text between special tokens begins with a space."""
    return None if "<" in text else f"<s> {text}<|im_end|> {text}"


class Form(NamedTuple):
    """A form of tokenizer, and the text on which llama.cpp agrees with it."""

    make: Callable[[], Any]
    asked: Callable[[str], str | None] = any_text
    """The string to ask for a string; None where the two are known to differ."""


FORMS: Final = {
    "gpt-2": Form(lambda: byte_level(pre.ByteLevel(add_prefix_space=False))),
    "smollm, granite": Form(lambda: byte_level(_digits(), pre.ByteLevel(add_prefix_space=False))),
    "qwen2": Form(lambda: byte_level(*split(QWEN2), nfc=True)),
    "llama 3": Form(lambda: byte_level(*split(LLAMA3), ignore_merges=True, add_bos=True)),
    "olmo2, glm4, phi-4": Form(lambda: byte_level(*split(LLAMA3))),
    "cl100k, inverted": Form(
        lambda: byte_level(
            pre.Split(Regex(LLAMA3), behavior="removed", invert=True),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        )
    ),
    "tekken": Form(lambda: byte_level(*split(TEKKEN), ignore_merges=True, add_bos=True), unmarked),
    "gpt-4o": Form(lambda: byte_level(*split(GPT_4O)), unmarked),
    "llama 2": Form(lambda: sentencepiece(normalizer=_space(normalizers.Prepend("▁")))),
    "mistral 0.1": Form(lambda: sentencepiece(pre_tokenizer=_metaspace("always")), unspaced),
    "mistral 0.1, spaced": Form(
        lambda: sentencepiece(pre_tokenizer=_metaspace("always"), template=SPACED_TEMPLATE), spaced
    ),
    "mistral 0.3": Form(lambda: sentencepiece(pre_tokenizer=_metaspace("first")), after_special),
    "no prefix": Form(lambda: sentencepiece(pre_tokenizer=_metaspace("never"))),
    "phi-3": Form(
        lambda: sentencepiece(normalizer=_space(normalizers.Prepend("▁")), stripping=True)
    ),
    "gemma": Form(
        lambda: sentencepiece(
            normalizer=normalizers.Replace(" ", "▁"),
            pre_tokenizer=pre.Split(" ", behavior="merged_with_previous"),
        )
    ),
}
