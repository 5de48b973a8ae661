"""The facts of a base model, as transformers gives them: digests, token ids, rendered text.

What is asked is what goes wrong in silence: pre-tokenizers that split otherwise, spaces, special
tokens inside text, tools and tool calls in the chat template.
"""

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from honed.adapter_files import combined_digest, file_digest
from honed.domain.base_facts import (
    DATE_CLOSE,
    DATE_OPEN,
    BaseDigests,
    BaseFacts,
    FileFacts,
    RenderedConversation,
    TokenizedText,
    dated,
    read_facts,
)
from honed.worker.base_model import load_config, load_tokenizer
from honed.worker.files import write_file
from honed.worker.served import ServedTemplate, UnservableError

WEIGHTS: Final = ("*.safetensors", "config.json")
TOKENIZER: Final = ("tokenizer*.json", "tokenizer.model")

STRINGS: Final = (
    "a",
    "Hello, world!",
    "disk: inspect",
    "  two   and three spaces",
    " leading and trailing ",
    "tab\there\r\nand\n\n\nthere\n",
    "it's you're I'VE we'll O'Neill's don't'",
    "0 12 345 6789 12345678 3.14159 1,000,000 0x1F 2026-02-29T12:30:45Z",
    "snake_case camelCase kebab-case __dunder__ a.b.c",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\tif x:\n\t\tpass",
    '{"name": "book", "arguments": {"seats": 2, "to": ["Z\u00fcrich", null]}}',
    "<p class='x'>&amp; &lt;br/&gt;</p>",
    "https://example.org/a/b?c=d&e=%20f#g",
    "na\u00efve caf\u00e9 \u00dcber Stra\u00dfe \u0141\u00f3d\u017a",
    "\u65e5\u672c\u8a9e\u3068\u4e2d\u6587\u3002\u97d3\uad6d\uc5b4",
    "\u1781\u17d2\u1798\u17c2\u179a \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u03b5\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\U0001f642 \U0001f469\u200d\U0001f4bb \U0001f1e8\U0001f1ed",
    "\u00a0no-break\u2003em\u200bzero\u3000wide",
    "...!!! ??? -- --- *** ((( )))",
    "x=1;y=2;z=x+y//2%3",
    "\u2163 \u00bd \u00b2 \u0662\u0663",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\n",
    " ",
    "    \n  \n",
    "Word. Next sentence! (And a third?) \u201cquoted\u201d \u2014 dash\u2026",
    "control \x01\x7f characters",
)
"""Asked of tokenizer and server; each special token of the model is asked after a word as well
(what follows one is in the conversations). All are in NFC: Qwen's tokenizers normalise to it and
llama.cpp does not, which docs/serving.md says.
"""
_MAX_SPECIAL: Final = 24

_TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "book_flight",
            "description": "Books seats on a flight to Z\u00fcrich.",
            "parameters": {
                "type": "object",
                "properties": {
                    "seats": {"type": "integer", "description": "How many."},
                    "to": {"type": "string", "enum": ["ZRH", "GVA"]},
                },
                "required": ["seats"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "cancel",
            "description": "Cancels it.",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
_SYSTEM: Final = {"role": "system", "content": "You book flights.\nBe brief."}
_USER: Final = {"role": "user", "content": "Two seats to Z\u00fcrich, please?"}
_REPLY: Final = {"role": "assistant", "content": "On which day?"}
_AGAIN: Final = {"role": "user", "content": "Tomorrow, it's urgent \U0001f642"}


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# Nine letters or digits: Mistral's templates refuse other ids.
_CALLED: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": [_call("call00001", "book_flight", '{"seats": 2, "to": "ZRH"}')],
}
_RESULT: Final = {"role": "tool", "tool_call_id": "call00001", "content": '{"booked": true}'}
_SAID_AND_CALLED: Final = {
    "role": "assistant",
    "content": "Then I cancel it.",
    "tool_calls": [_call("call00002", "cancel", "{}")],
}
_CANCELLED: Final = {"role": "tool", "tool_call_id": "call00002", "content": "done"}

CONVERSATIONS: Final[tuple[tuple[str, list[dict[str, Any]], bool], ...]] = (
    ("one turn", [_USER], False),
    ("system prompt", [_SYSTEM, _USER], False),
    ("several turns", [_USER, _REPLY, _AGAIN], False),
    ("system prompt and several turns", [_SYSTEM, _USER, _REPLY, _AGAIN], False),
    ("tools", [_USER], True),
    ("system prompt and tools", [_SYSTEM, _USER], True),
    ("tool call and result", [_USER, _CALLED, _RESULT], True),
    (
        "tool calls over several turns",
        [_SYSTEM, _USER, _CALLED, _RESULT, _REPLY, _AGAIN, _SAID_AND_CALLED, _CANCELLED],
        True,
    ),
)
"""Name, turns, and whether tools are offered. None ends with a reply: llama-server takes that for
the beginning of its own.
"""


class Folder(NamedTuple):
    """What a base model's folder holds, by content."""

    digests: BaseDigests
    files: tuple[FileFacts, ...]


def read_folder(folder: Path, tokenizer: Any, *, known: BaseFacts | None = None) -> Folder:
    """Digests of a base model; unchanged files that are `known` are not read again."""
    seen = {file.path: file for file in known.files} if known else {}
    weights = _seen(folder, WEIGHTS, seen)
    words = _seen(folder, TOKENIZER, seen)
    template: str = tokenizer.chat_template
    digests = BaseDigests(
        base_model=_combined(weights),
        tokenizer=_combined(words),
        chat_template=hashlib.sha256(template.encode()).hexdigest(),
    )
    return Folder(digests, (*weights, *words, *_seen(folder, ("*.jinja",), seen)))


def _seen(folder: Path, patterns: tuple[str, ...], seen: dict[str, FileFacts]) -> list[FileFacts]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return [_file(path, seen.get(str(path))) for path in paths]


def _file(path: Path, known: FileFacts | None) -> FileFacts:
    if known is not None and known.digest is not None and known.is_unchanged():
        return known
    found = path.stat()  # before it is read: a later change is then seen
    return FileFacts(str(path), found.st_size, found.st_mtime_ns, file_digest(path))


def _combined(files: list[FileFacts]) -> str:
    return combined_digest({Path(file.path).name: file.digest or "" for file in files})


def write_facts(
    path: Path, folder: Path, gguf_path: Path, *, architecture: str, quantisation: str
) -> BaseFacts:
    """Write the facts of the base model in `folder`, which `gguf_path` was made from or compared with."""
    config, _ = load_config(folder)
    tokenizer = load_tokenizer(folder)
    read = read_folder(folder, tokenizer, known=read_facts(path))
    found = gguf_path.stat()
    facts = BaseFacts(
        base_model=str(folder),
        gguf=FileFacts(str(gguf_path), found.st_size, found.st_mtime_ns),
        quantisation=quantisation,
        architecture=architecture,
        vocab_size=config.vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        bos_token=tokenizer.bos_token,
        eos_token_id=tokenizer.eos_token_id,
        is_tied=bool(config.tie_word_embeddings),
        digests=read.digests,
        files=read.files,
        strings=tuple(_strings(tokenizer)),
        conversations=tuple(_conversations(tokenizer)),
    )
    write_file(path, msgspec.json.encode(facts))
    return facts


def _strings(tokenizer: Any) -> Iterator[TokenizedText]:
    special = list(dict.fromkeys(tokenizer.all_special_tokens))[:_MAX_SPECIAL]
    beginning = _beginning_of_chat(tokenizer)
    for text in (*STRINGS, *(f"before {token}" for token in special)):
        asked = beginning + text
        yield TokenizedText(text=asked, token_ids=_ids(tokenizer, asked))


def _beginning_of_chat(tokenizer: Any) -> str:
    """What the template puts before a user's words: Llama 2's and Mistral's tokenizers treat the very start
    of a text as llama.cpp cannot, and no chat has words there (docs/models.md).
    """
    marker = "\ufffc"
    turn = {"role": "user", "content": marker}
    text: str = tokenizer.apply_chat_template([turn], tokenize=False)
    return text.partition(marker)[0]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(ids)


def _conversations(tokenizer: Any) -> Iterator[RenderedConversation]:
    template = ServedTemplate.of(tokenizer)
    for name, messages, with_tools in CONVERSATIONS:
        for add_generation_prompt in (True, False):
            tools = _TOOLS if with_tools else None
            text = _text(template, messages, tools, add_generation_prompt)
            if text is None:
                continue
            if tools and text == _text(template, messages, None, add_generation_prompt):
                continue  # the template has no place for tools: llama-server adds words of its own
            has_date = DATE_OPEN in text
            yield RenderedConversation(
                name=name + (" and generation prompt" if add_generation_prompt else ""),
                messages=messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                text=text,
                token_ids=None if has_date else _ids(tokenizer, text),
            )


def _text(
    template: ServedTemplate,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    add_generation_prompt: bool,
) -> str | None:
    """The text that a conversation is trained on, with formats for dates; None where the template
    refuses it, or does more with a date than writing it.
    """

    def render(strftime: Callable[[str], str]) -> str:
        return template.render(
            messages, tools, add_generation_prompt=add_generation_prompt, strftime=strftime
        )

    now = datetime.now().astimezone()
    try:
        text = render(lambda format: f"{DATE_OPEN}{format}{DATE_CLOSE}")
        if DATE_OPEN in text and dated(text, now) != render(now.strftime):
            return None
    except UnservableError:
        return None
    return text
