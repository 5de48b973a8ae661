"""What a base model's Hugging Face folder says, so that whoever serves it as GGUF can be held to it.

The worker writes it as JSON when it has converted a base model, or has compared one that was
converted elsewhere with its folder. The gateway asks each llama-server for the same strings and
conversations, and compares the digests with those in an adapter's manifest.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

FACTS_FORMAT: Final = 1
"""Raised when the file's meaning changes; a file of another format is made anew."""

DATE_OPEN: Final = "\ue000"
DATE_CLOSE: Final = "\ue001"
"""Around the format (of strftime) of a date that the template asks for when it renders."""


class FileFacts(Struct, frozen=True):
    """One file as it was when it was read; a later one of the same size and time is taken for it."""

    path: str
    size_bytes: int
    mtime_ns: int
    digest: str | None = None
    """SHA-256 of its content, hex; None where nobody needed it."""

    def is_unchanged(self, path: Path | None = None) -> bool:
        """Whether the file (or another one at `path`) is there with the same size and time."""
        try:
            found = (path or Path(self.path)).stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size_bytes, self.mtime_ns)


class BaseDigests(Struct, frozen=True, kw_only=True):
    """SHA-256 of what makes a base model, hex; the same three stand in an adapter's manifest."""

    base_model: str
    """Over names and contents of config and weights."""
    tokenizer: str
    chat_template: str

    def difference(self, other: "BaseDigests") -> str | None:
        """The first that differs, in words: this one is expected, `other` is found."""
        for name, what in (
            ("base_model", "base model"),
            ("tokenizer", "tokenizer"),
            ("chat_template", "chat template"),
        ):
            expected, found = getattr(self, name), getattr(other, name)
            if expected != found:
                return f"another {what}: expected digest {expected}, found {found}"
        return None


class TokenizedText(Struct, frozen=True, kw_only=True):
    """A string and its tokens, without those that a tokenizer adds at the ends."""

    text: str
    token_ids: tuple[int, ...]


class RenderedConversation(Struct, frozen=True, kw_only=True):
    """A conversation and the text that the chat template makes of it."""

    name: str
    """Says what is special about it."""
    messages: list[dict[str, Any]]
    """As clients send them: arguments of tool calls are JSON text."""
    tools: list[dict[str, Any]] | None
    add_generation_prompt: bool
    text: str
    """Dates stand in it as their format, between DATE_OPEN and DATE_CLOSE."""
    token_ids: tuple[int, ...] | None
    """Tokens of the text as it is trained on; None where it holds a date."""


class BaseFacts(Struct, frozen=True, kw_only=True):
    """The facts file, JSON."""

    format: int = FACTS_FORMAT
    base_model: str
    """The folder."""
    gguf: FileFacts
    """The GGUF file that these facts were compared with, or that was made from the folder."""
    quantisation: str
    """Types of the file's matrices, the most frequent first: `Q4_0, Q6_K`."""
    architecture: str
    """As GGUF calls it."""
    vocab_size: int
    bos_token_id: int | None
    bos_token: str | None
    eos_token_id: int
    is_tied: bool
    """Whether the embeddings are the output layer too."""
    digests: BaseDigests
    files: tuple[FileFacts, ...]
    """The folder's files that the digests were taken over, by name."""
    strings: tuple[TokenizedText, ...]
    conversations: tuple[RenderedConversation, ...]
    """Those that the template can render; what it refuses is left out."""

    def changed_file(self) -> str | None:
        """Path of the first of the folder's files that is not as it was."""
        return next((file.path for file in self.files if not file.is_unchanged()), None)


def read_facts(path: Path) -> BaseFacts | None:
    """The facts in a file; None when it is not there, cannot be read, or has another format."""
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=BaseFacts)
    except (OSError, msgspec.DecodeError):
        return None
    return facts if facts.format == FACTS_FORMAT else None


def dated(text: str, now: datetime) -> str:
    """The text with its dates filled in."""
    pieces = text.split(DATE_OPEN)
    filled = [pieces[0]]
    for piece in pieces[1:]:
        format, _, rest = piece.partition(DATE_CLOSE)
        filled += (now.strftime(format), rest)
    return "".join(filled)
