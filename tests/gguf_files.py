"""GGUF files made from others: requantised, with other metadata, with changed tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

Change = Callable[[str, "np.ndarray[Any, Any]"], "np.ndarray[Any, Any] | None"]
"""A tensor's name and values (float32) to other values; None leaves it out."""


def rewrite(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    change: Change = lambda name, values: values,
    matrices: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """Write `source` anew as `target`.

    Args:
        source: an F32 file.
        target: is returned.
        metadata: values instead of those in the file, of the same type; None leaves a key out.
        change: of each tensor.
        matrices: the type of all tensors with more than one dimension.
    """
    reader = gguf.GGUFReader(source)
    architecture = (metadata or {}).get("general.architecture")
    architecture = architecture or reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    changed = dict(metadata or {})
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changed.pop(key, field.contents())
        if value is not None:
            kind, *inner = field.types
            writer.add_key_value(key, value, kind, sub_type=inner[-1] if inner else None)
    for tensor in reader.tensors:
        values = change(tensor.name, dequantize(tensor.data, tensor.tensor_type))
        if values is None:
            continue
        if values.ndim < 2:
            writer.add_tensor(tensor.name, values)
        else:
            raw = quantize(values.astype(np.float32), matrices)
            writer.add_tensor(tensor.name, raw, raw_dtype=matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def value_of(path: Path, key: str) -> Any:
    """One value of a file's metadata."""
    return gguf.GGUFReader(path).fields[key].contents()
