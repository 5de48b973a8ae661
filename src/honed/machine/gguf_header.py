"""The few numbers at the beginning of a GGUF file that decide how much memory its layers take.

Read without the package gguf, which belongs to the training stack: the format is a count of keys, each with a type and
a value, little-endian. Arrays are passed over; reading ends when everything that is asked for has been found.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

_MAGIC: Final = b"GGUF"
_FORMATS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
"""Value type to its form; 8 is a string, 9 an array."""
_STRING: Final = 8
_ARRAY: Final = 9
_MAX_KEYS: Final = 10_000
_MAX_BYTES: Final = 64 << 20
"""Of one string."""


@dataclass(frozen=True, slots=True)
class Layers:
    """How a model is built, as far as memory goes."""

    num_layers: int
    kv_values: int
    """Numbers that one token takes in the KV cache of one layer, keys and values together."""
    file_bytes: int

    def layer_bytes(self, num_tokens: int) -> int:
        """Memory of one layer: its weights, and the cache of so many tokens in 16 bits.

        The output layer is counted as one more, and the embeddings stay on the CPU: a little too much for each.
        """
        return self.file_bytes // (self.num_layers + 1) + 2 * self.kv_values * num_tokens


def read_layers(path: Path) -> Layers | None:
    """What the file says; None where it is none, or does not say it in llama.cpp's words."""
    try:
        with path.open("rb") as file:
            found = _read(file)
        size = path.stat().st_size
    except (OSError, struct.error, ValueError, KeyError):
        return None
    try:
        heads = found["attention.head_count"]
        kv_heads = found.get("attention.head_count_kv", heads)
        default = found["embedding_length"] // heads
        key, value = (found.get(f"attention.{each}_length", default) for each in ("key", "value"))
        return Layers(found["block_count"], kv_heads * (key + value), size)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


_OTHERS: Final = ("attention.head_count_kv", "attention.key_length", "attention.value_length")
_NEEDED: Final = frozenset(("block_count", "embedding_length", "attention.head_count", *_OTHERS))


def _read(file: IO[bytes]) -> dict[str, Any]:
    """Values by key, without the architecture before it."""
    if file.read(4) != _MAGIC:
        raise ValueError("no GGUF file")
    version, _, num_keys = struct.unpack("<IQQ", file.read(20))
    if version < 2 or num_keys > _MAX_KEYS:
        raise ValueError("a form of GGUF that is not known")
    found: dict[str, Any] = {}
    for _ in range(num_keys):
        name = _string(file).decode(errors="replace").partition(".")[2]
        found[name] = _value(file, _number(file, "<I"))
        if found.keys() >= _NEEDED:
            break
    return found


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _FORMATS[kind])
    of, length = _number(file, "<I"), _number(file, "<Q")
    if of == _STRING:
        for _ in range(length):
            _string(file)
    elif of != _ARRAY:
        file.seek(struct.calcsize(_FORMATS[of]) * length, 1)
    else:
        raise ValueError("an array of arrays")
    return None


def _string(file: IO[bytes]) -> bytes:
    length = _number(file, "<Q")
    if length > _MAX_BYTES:
        raise ValueError("a string that is too long")
    return file.read(length)


def _number(file: IO[bytes], form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
