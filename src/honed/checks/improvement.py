"""An adapter against the baseline on the same rows: points of accuracy, and how sure they are."""

import math
from collections.abc import Sequence
from typing import Final

from honed.checks.measures import Tokens

_Z: Final = 1.96
"""95 %, two-sided."""


def accuracy(rows: Sequence[Tokens]) -> float | None:
    """Percent of all tokens that are right; None without a token."""
    total = sum(row.num_tokens for row in rows)
    return 100 * sum(row.num_correct for row in rows) / total if total else None


def interval(base: Sequence[Tokens], adapter: Sequence[Tokens]) -> tuple[float, float] | None:
    """The 95 % interval of the improvement in points; None where rows do not line up, or fewer than two have a token.

    Tokens of one row are no independent witnesses: the row is the unit, and the improvement a ratio of two sums over
    rows, gained tokens by tokens.

    Source: the linearised variance of a ratio, Cochran, Sampling Techniques (1977), 6.4; normal approximation.
    """
    if [row.num_tokens for row in base] != [row.num_tokens for row in adapter]:
        return None
    pairs = [
        (one.num_tokens, other.num_correct - one.num_correct)
        for one, other in zip(base, adapter, strict=True)
        if one.num_tokens
    ]
    if (n := len(pairs)) < 2:
        return None
    total = sum(tokens for tokens, _ in pairs)
    ratio = sum(gained for _, gained in pairs) / total
    spread = sum((gained - ratio * tokens) ** 2 for tokens, gained in pairs)
    error = math.sqrt(n / (n - 1) * spread) / total
    return 100 * (ratio - _Z * error), 100 * (ratio + _Z * error)
