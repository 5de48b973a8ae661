"""The strings of a JSON line, as bytes and where they stand, without touching anything between them.

Working on the line's own strings rather than on a decoded object keeps numbers, order, white space and
repeated keys as they were sent; a decoder would drop the first of two equal keys, and a secret in it would
be neither found nor gone.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from honed.domain.events import TOO_DEEP
from honed.errors import ValidationError

_STRING: Final = re.compile(
    rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(?:(\s*+:)\s*+([0-9]{13,19}(?![0-9.eE]))?)?'
)
"""Body; the colon of a key; a long number that follows one. Possessive, so that it never goes back."""
AFTER_KEY: Final = b'": "'
"""Stands between a key and its value in `joined`."""

_read = msgspec.json.Decoder(msgspec.Raw).decode
_decode_string = msgspec.json.Decoder(str).decode


class JsonString(NamedTuple):
    """A string of the line, or a long number under a key."""

    start: int
    """Where it begins in the line, with its quotation mark."""
    end: int
    text: bytes
    """Decoded, UTF-8."""
    key: bytes | None
    """The key whose value it is; None for a key or an element of an array."""
    is_number: bool


def check_syntax(line: bytes) -> None:
    """Raise ValidationError where the line is not JSON."""
    try:
        _read(line)
    except msgspec.DecodeError as error:
        raise ValidationError(f"the line is not JSON: {error}") from None
    except RecursionError:
        raise ValidationError(TOO_DEEP) from None


def joined(line: bytes) -> bytes:
    """All strings one after another, each after a newline, to be searched at once.

    Raises:
        ValidationError: the line is not JSON.
    """
    check_syntax(line)
    return b"\n" + b"\n".join(
        [
            (_decoded(body) if b"\\" in body else body) + (AFTER_KEY + number if colon else b"")
            for body, colon, number in _STRING.findall(line)
        ]
    )


def strings(line: bytes) -> Iterator[JsonString]:
    """The strings of a line with good syntax, in order.

    Raises:
        ValidationError: one is not UTF-8.
    """
    key: bytes | None = None
    after_key = -1
    for found in _STRING.finditer(line):
        body = found[1]
        text = _decoded(body) if b"\\" in body else body
        is_value = found.start() == after_key
        yield JsonString(found.start(), found.end(1) + 1, text, key if is_value else None, False)
        if found[3] is not None:
            yield JsonString(found.start(3), found.end(3), found[3], text, True)
        key, after_key = text, found.end() if found[2] is not None else -1


def _decoded(body: bytes) -> bytes:
    try:
        return _decode_string(b'"' + body + b'"').encode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValidationError(f"the line is not JSON: {error}") from None
