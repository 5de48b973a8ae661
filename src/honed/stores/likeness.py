"""Which texts agree with remembered ones in most of their parts: all with all, a few nanoseconds a pair.

Texts made from one template share bands with all that is remembered of it, so that no choice of bands keeps them
apart from texts that say nearly the same, and every one of them has to be compared.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from honed.domain.held_text import NUM_PARTS, num_equal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def near(asked: Sequence[bytes], known: Sequence[bytes], *, least: int) -> list[bool]:
    """Whether each of the asked texts agrees with one of the known ones in `least` parts; for a thread.

    Args:
        asked: `HeldText.parts` of each.
        known: the same.
        least: number of parts, above 0.
    """
    try:
        import numpy as np
    except ImportError:  # parts are made where `honed[train]` is, which brings it; slow, and right
        return [any(num_equal(parts, other) >= least for other in known) for parts in asked]
    # a row for each part, so that a step of the sum goes along memory
    columns = np.ascontiguousarray(_table(known).T)
    told = []
    for parts in _table(asked):
        num: NDArray[np.uint8] = (columns == parts[:, None]).view(np.uint8).sum(0, dtype=np.uint8)
        told.append(bool(num.max(initial=0) >= least))
    return told


def _table(texts: Sequence[bytes]) -> "NDArray[np.uint16]":
    import numpy as np

    return np.frombuffer(b"".join(texts), np.uint16).reshape(len(texts), NUM_PARTS)
