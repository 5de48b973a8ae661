"""Are the values of a GGUF tensor those of the model that it should be, as far as its type shows?

Vectors (norms, biases) are compared whole. Of every matrix up to 16 rows are taken, spread from
first to last, and compared within what the tensor's type may change:

    F32    nothing
    F16    half a unit in the last place: 2**-11 of the value
    BF16   a unit in the last place: 2**-8 of the value (some converters cut instead of rounding)
    Q8_0   half a step of the block, and the rounding of its scale to F16
    Q4_0   two steps of the block for one value, 0.4 steps root mean square: with an importance
           matrix the scale is chosen freely, and values may be cut off at the far end
    other  by the size of a row's error against its values, see COARSE

How small a change of the model each of them shows is measured in docs/serving.md.
"""

from typing import Any, Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

ROWS: Final = 16
"""Rows of a matrix that are compared."""
NEAR_ZERO: Final = np.float32(2**-24)
"""What a matrix may lose everywhere: a file is often made by way of F16, whose smallest step this is."""
STRAY: Final = 1e-3
"""Share of values that may lie outside: a file may have been quantised from F16, not from the folder's type."""
COARSE: Final = {"Q6_K": 0.05, "Q5": 0.10, "Q4": 0.20, "IQ4": 0.20, "Q3": 0.30, "IQ3": 0.35}
"""Root mean square of the error over that of the values; two unrelated matrices have 1.4."""
COARSEST: Final = 0.6

Array = np.ndarray[Any, Any]


def difference(tensor: gguf.ReaderTensor, expected: Array) -> str | None:
    """Where and how much a tensor differs from what is expected; None when it is the same."""
    if len(expected.shape) < 2 or tensor.tensor_type == GGMLQuantizationType.F32:
        found = _float32(tensor.data, tensor.tensor_type).reshape(expected.shape)
        if len(expected.shape) >= 2:
            rows = _rows(_flat(expected).shape[0])
            return _first_outside(_flat(expected)[rows], _flat(found)[rows], NEAR_ZERO, rows)
        slack = (
            np.abs(expected) * 2**-10
            if tensor.tensor_type == GGMLQuantizationType.F16
            else np.float32(0)
        )
        return _first_outside(expected[None], found[None], slack, [0])
    raw = tensor.data.reshape(-1, tensor.data.shape[-1])
    rows = _rows(raw.shape[0])
    wanted = _flat(expected)[rows]
    try:
        found = _float32(raw[rows], tensor.tensor_type)
    except NotImplementedError:
        return None  # a type that the gguf package cannot read: the vectors must do
    return _matrix_difference(raw[rows], tensor.tensor_type, wanted, found, rows)


def _flat(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1])


def _rows(count: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, ROWS)})


def _float32(data: Array, kind: GGMLQuantizationType) -> Array:
    values: Array = dequantize(np.ascontiguousarray(data), kind)
    return values.astype(np.float32)


def _matrix_difference(
    raw: Array, kind: GGMLQuantizationType, wanted: Array, found: Array, rows: list[int]
) -> str | None:
    match kind:
        case GGMLQuantizationType.F16:
            return _first_outside(wanted, found, np.abs(wanted) * 2**-11 + NEAR_ZERO, rows)
        case GGMLQuantizationType.BF16:
            return _first_outside(wanted, found, np.abs(wanted) * 2**-8 + NEAR_ZERO, rows)
        case GGMLQuantizationType.Q8_0:
            step = _steps(raw, block_bytes=34, shape=wanted.shape)
            slack = step / 2 + np.abs(found) * 2**-11 + NEAR_ZERO
            return _first_outside(wanted, found, slack, rows, stray=STRAY)
        case GGMLQuantizationType.Q4_0:
            step = _steps(raw, block_bytes=18, shape=wanted.shape)
            told = _first_outside(wanted, found, 2 * step + NEAR_ZERO, rows, stray=STRAY)
            return told or _too_far(wanted, found, step, limit=0.4, unit="steps")
        case _:
            limit = next((v for name, v in COARSE.items() if kind.name.startswith(name)), COARSEST)
            return _too_far(wanted, found, None, limit=limit, unit="of the values")


def _steps(raw: Array, *, block_bytes: int, shape: tuple[int, ...]) -> Array:
    """The step of each value's block of 32: its scale, the first two bytes."""
    blocks = np.ascontiguousarray(raw).reshape(-1, block_bytes)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.repeat(np.abs(scales), 32, axis=1).reshape(shape)


def _first_outside(
    wanted: Array, found: Array, slack: Array | np.float32, rows: list[int], *, stray: float = 0.0
) -> str | None:
    """The first value that is farther off than it may be, when more than a few are."""
    is_outside = ~(np.abs(found - wanted) <= slack)  # a NaN is outside
    if np.count_nonzero(is_outside) <= stray * is_outside.size:
        return None
    row, column = (int(i) for i in np.argwhere(is_outside)[0])
    share = 100 * np.count_nonzero(is_outside) / is_outside.size
    return (
        f"[{rows[row]}, {column}]: expected {wanted[row, column]:.7g}, "
        f"found {found[row, column]:.7g} ({share:.3g} % of the compared values differ)"
    )


def _too_far(
    wanted: Array, found: Array, step: Array | None, *, limit: float, unit: str
) -> str | None:
    """How far a matrix is off as a whole, when it is more than its type explains."""
    error = found - wanted
    if step is not None:
        error = np.where(step > 0, error / np.where(step > 0, step, 1), 0)
        size = 1.0
    else:
        size = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) or 1.0
    far = float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))) / size
    if far <= limit:
        return None
    return f" is off by {far:.3g} {unit}, root mean square: expected at most {limit:g}"
