"""Rows that say nearly the same: found by MinHash, and which of them stays.

Two rows are near-duplicates when the sets of their five-word sequences overlap by `similarity` or more
(Jaccard; Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", use 0.8). The words are
those of the turns and tool calls without system turns: agents share long instructions, and what they did
under them may still differ. Accents count the same however they are put together (NFC); where a script sets no
spaces, each character is a word, so that commas make no other text. Estimated from 128 hashes, so a pair near the
limit may fall on either side; the same rows always give the same answer.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from honed.domain.message import Message
from honed.domain.training_data import ChatExample, LabelledExample, PreferencePair, TrainingData
from honed.errors import TrainingError
from honed.learn_models.worker_rows import OFFERED

if TYPE_CHECKING:
    from rensa import RMinHash, RMinHashLSH

_NUM_HASHES: Final = 128
_NUM_BANDS: Final = 32
"""Bands of 4: a pair with a similarity of 0.8 is overlooked in 1 of 10^7 cases, one with 0.5 in 1 of 8."""
_SEED: Final = 42
_UNSPACED: Final = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Chinese and Japanese characters."""
_WORD: Final = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_RUN: Final = re.compile(r"\w+")
"""A word, where only spaces and marks part them."""
_SEQUENCE: Final = 5
_OFFERED: Final = re.compile(rf"^{OFFERED}.*", re.MULTILINE)
"""The line of actions that the prompts of a scenario share, as they share their instructions."""


class Signed(NamedTuple):
    """A row and the sketch of what it says."""

    key: str
    sketch: "RMinHash"


def is_available() -> bool:
    """Whether the library that makes sketches is installed; it comes with the extra `train`."""
    try:
        import rensa  # noqa: F401
    except ImportError:
        return False
    return True


def check_available() -> None:
    """Raise TrainingError when near-duplicates cannot be looked for."""
    if not is_available():
        raise TrainingError(
            "near-duplicates cannot be found: the package rensa is not installed",
            advice="pip install 'honed[train]', or set learn.near_duplicates to keep",
        )


def said(data: TrainingData) -> bytes:
    """A digest of the words of a row: equal where two rows say the same to the word."""
    return _said_by(_words(data))


def sketch(data: TrainingData) -> "RMinHash":
    """What a row says, in 512 bytes."""
    return _sketch_of(_words(data))


def as_once_told(data: TrainingData, *, sketched: bool) -> "tuple[bytes, RMinHash | None] | None":
    """Digest and sketch as they were once made, where those are others; None nearly always.

    Held-out texts are remembered for ever, some of them in that form: one word for each run of letters as they stand.
    """
    if all(text.isascii() for text in _texts(data)):
        return None
    words = [word for text in _texts(data) for word in _RUN.findall(text.lower())]
    if words == _words(data):
        return None
    return _said_by(words), _sketch_of(words) if sketched else None


def _said_by(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass")).digest()[:16]


def _sketch_of(words: Sequence[str]) -> "RMinHash":
    from rensa import RMinHash

    parts = (words[start:] for start in range(_SEQUENCE))
    made = RMinHash(num_perm=_NUM_HASHES, seed=_SEED)
    made.update(list(map(" ".join, zip(*parts, strict=False))) or [" ".join(words)])
    return made


def near_duplicates(ranked: Iterable[Signed], similarity: float) -> dict[str, str]:
    """Rows that say nearly what a row ranked before them says, and which one that is.

    Args:
        ranked: the rows, the one to stay first.
        similarity: share of common word sequences from which two rows say nearly the same, 0..1.

    Returns:
        By the key of the row that is near to another: the key of the closest of those that stay.
    """
    index = _empty_index(similarity)
    staying: list[Signed] = []
    found: dict[str, str] = {}
    for row in ranked:
        near = [staying[place] for place in sorted(index.query(row.sketch))]
        alike = [(row.sketch.jaccard(other.sketch), other.key) for other in near]
        closest = max(alike, key=lambda pair: pair[0], default=(0.0, ""))
        if closest[0] >= similarity:
            found[row.key] = closest[1]
            continue
        index.insert(len(staying), row.sketch)
        staying.append(row)
    return found


class Texts:
    """What a list of rows says, to tell which of them say nearly what another row says.

    Where the library is missing, only rows that say the same to the word are told.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._said: dict[bytes, list[int]] = {}
        self._sketches: list[RMinHash | None] = []
        self._index: RMinHashLSH | None = None

    def add(self, digest: bytes, sketch: "RMinHash | None") -> None:
        """Take the next row in, given by `said` and `sketch`."""
        number = len(self._sketches)
        self._said.setdefault(digest, []).append(number)
        self._sketches.append(sketch)
        if sketch is not None:
            self._index = self._index or _empty_index(self._similarity)
            self._index.insert(number, sketch)

    def near(self, digest: bytes, sketch: "RMinHash | None") -> list[int]:
        """The rows, by number from 0, that say nearly what the given one says."""
        found = set(self._said.get(digest, ()))
        if self._index is not None and sketch is not None:
            for number in self._index.query(sketch):
                other = self._sketches[number]
                if other is not None and sketch.jaccard(other) >= self._similarity:
                    found.add(number)
        return sorted(found)


def _empty_index(similarity: float) -> "RMinHashLSH":
    from rensa import RMinHashLSH

    return RMinHashLSH(threshold=similarity, num_perm=_NUM_HASHES, num_bands=_NUM_BANDS)


def _words(data: TrainingData) -> list[str]:
    return [word for text in _texts(data) for word in _words_of(text)]


def _words_of(text: str) -> list[str]:
    if text.isascii():
        return _RUN.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def _texts(data: TrainingData) -> Iterator[str]:
    match data:
        case ChatExample():
            yield from _said(data.messages)
        case PreferencePair():
            yield from _said((*data.prompt, *data.chosen, *data.rejected))
        case LabelledExample():
            yield from _said((*data.prompt, *data.completion))


def _said(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        yield _OFFERED.sub("", message.text) if message.role == "user" else message.text
        for call in message.tool_calls or ():
            yield f"{call.function.name} {call.function.arguments}"
