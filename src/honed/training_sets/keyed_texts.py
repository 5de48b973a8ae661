"""What of a text may be remembered for ever: hashes of its words and of its sketch, under the key of the split.

A text may be short enough to be guessed, and its sketch can be made by anybody; so every hash is keyed. Bands and parts
are those of `near_duplicates`, hash by hash, so that two texts share as many here as there.
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from honed.domain.held_text import NUM_PARTS, HeldText, least_equal

if TYPE_CHECKING:
    from rensa import RMinHash

_WIDTH: Final = 4
"""Hashes in a band, as in the index of `near_duplicates`."""
_WORDS, _PART, _BAND = b"held words", b"held part", b"held band"


class KeyedTexts:
    """Texts as the store may remember them.

    Args:
        secret: the key of the split.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def text(self, said: bytes, sketch: "RMinHash | None") -> HeldText:
        """A text, given by `near_duplicates.said` and `sketch`."""
        digest = self._hash(_WORDS, said, 16)
        if sketch is None:
            return HeldText(digest)
        hashes = sketch.digest()
        parts = b"".join(
            self._hash(_PART, struct.pack("<BI", number, value), 2)
            for number, value in enumerate(hashes)
        )
        bands = [
            self._hash(_BAND, struct.pack("<B4I", start, *hashes[start : start + _WIDTH]), 8)
            for start in range(0, NUM_PARTS, _WIDTH)
        ]
        numbers = (int.from_bytes(band, "big", signed=True) for band in bands)
        return HeldText(digest, parts, tuple(numbers))

    def _hash(self, person: bytes, what: bytes, size: int) -> bytes:
        return hashlib.blake2b(what, digest_size=size, key=self._secret, person=person).digest()


def sought(texts: Sequence[HeldText], similarity: float) -> list[HeldText]:
    """The texts with as many of their bands as it takes to find all that is near.

    Texts that may differ in 25 of 128 parts share at least one of any 26 bands. Which ones are asked for is free, so
    those are left out that many of these texts have: texts made from one template share them with all that is
    remembered of it.
    """
    num = NUM_PARTS - least_equal(similarity) + 1
    common = Counter(band for held in texts for band in held.bands)
    return [
        held._replace(bands=tuple(sorted(held.bands, key=lambda band: common[band])[:num]))
        for held in texts
    ]
