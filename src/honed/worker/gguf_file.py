"""A base model's GGUF file, or the parts that one was split into, as they are read for comparing."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import gguf

from honed.errors import ParityError

_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")
_SPLIT_COUNT: Final = "split.count"


class GgufFile:
    """Metadata and tensors; values are read from disk when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Raises ParityError when it is no GGUF file, or a part is missing."""
        self.path = path
        first = _open(path)
        self._fields = first.fields
        parts = [first]
        if (count := self.value(_SPLIT_COUNT) or 1) > 1:
            parts += [_open(part) for part in _other_parts(path, count)]
        self.tensors = {tensor.name: tensor for part in parts for tensor in part.tensors}

    def value(self, key: str) -> Any:
        """The value of a metadata key; None when it is not there."""
        field = self._fields.get(key)
        return None if field is None else field.contents()

    def keys(self, prefix: str) -> set[str]:
        """Metadata keys that begin so."""
        return {key for key in self._fields if key.startswith(prefix)}

    @property
    def quantisation(self) -> str:
        """Types of the matrices, the most frequent first."""
        types = Counter(
            tensor.tensor_type.name for tensor in self.tensors.values() if len(tensor.shape) > 1
        )
        return ", ".join(name for name, _ in types.most_common())


def _open(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ParityError(
            f"{path} cannot be read as GGUF: {error}",
            advice="name the base model as GGUF in serve.base_model_path, or leave the key out "
            "to have base_model converted",
        ) from error


def _other_parts(path: Path, count: int) -> list[Path]:
    match = _PART.search(path.name)
    if match is None or int(match[1]) != 1 or int(match[2]) != count:
        raise ParityError(
            f"{path} is one of {count} parts: expected the first, named "
            f"NAME-00001-of-{count:05d}.gguf"
        )
    stem = path.name[: match.start()]
    return [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(2, count + 1)]
