"""How much of what a training learns: new against replayed rows, one skill against another, young against old.

Each share is a limit. Rows beyond it are left out in the order of the draw, so equal rows, rules and seed give the
same mixture. Where two limits are set, each is applied to what the other leaves until both hold. A limit that cannot
hold, as half of the rows for each of one skill, is the smallest that can: equal parts.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from honed.training_sets.candidates import Candidate
from honed.training_sets.rules import Rules

REPLAYED: Final = "more replay than its share"
SKILL: Final = "more of one skill than its share"
AGE: Final = "more of one age than its share"

_DAY_MS: Final = 86_400_000

ClassOf = Callable[[Candidate], str]


def mixed(rows: Sequence[Candidate], rules: Rules, left_out: Counter[str]) -> list[Candidate]:
    """The rows within all limits, in their order; those beyond one are counted.

    Args:
        rows: in the order of the draw.
        rules: with the limits.
        left_out: gets the counts.
    """
    staying = _replayed(rows, rules.replay)
    left_out[REPLAYED] += len(rows) - len(staying)
    classes = age_classes(staying)
    limits: list[tuple[str, float, ClassOf]] = [
        (SKILL, rules.max_skill_share, lambda row: row.origin.skill),
        (AGE, rules.max_age_share, lambda row: classes[row.key]),
    ]
    num_before = -1
    while num_before != len(staying):
        num_before = len(staying)
        for reason, share, class_of in limits:
            within = _within(staying, share, class_of)
            left_out[reason] += len(staying) - len(within)
            staying = within
    return staying


def age_classes(rows: Sequence[Candidate]) -> dict[str, str]:
    """The class of age of each row, by its episode: counted back from the youngest of them, not from a clock."""
    youngest = max((row.origin.at_ms for row in rows), default=0)
    return {row.key: _age(youngest - row.origin.at_ms) for row in rows}


def _age(age_ms: int) -> str:
    days = age_ms / _DAY_MS
    return "under 1 d" if days < 1 else f"under {2 << int(math.log2(days))} d"


def _replayed(rows: Sequence[Candidate], share: float) -> list[Candidate]:
    num_new = sum(row.origin.is_new for row in rows)
    if share >= 1 or num_new == 0:  # without new rows there is nothing to mix with
        return list(rows)
    # the tolerance: 0.3 / 0.7 * 7 is 2.9999999999999996
    return _at_most(
        rows, math.floor(share / (1 - share) * num_new + 1e-9), lambda r: r.origin.is_new
    )


def _at_most(
    rows: Sequence[Candidate], limit: int, is_free: Callable[[Candidate], bool]
) -> list[Candidate]:
    """The rows without those beyond the first `limit` that are not free."""
    staying, num = [], 0
    for row in rows:
        if not is_free(row):
            num += 1
            if num > limit:
                continue
        staying.append(row)
    return staying


def _within(rows: Sequence[Candidate], share: float, class_of: ClassOf) -> list[Candidate]:
    """The rows without those of a class beyond the share of all that stay."""
    counts = Counter(map(class_of, rows))
    if share >= 1 or len(counts) < 2:
        return list(rows)
    cap = _cap(list(counts.values()), max(share, 1 / len(counts)))
    taken, staying = Counter[str](), []
    for row in rows:
        taken[class_of(row)] += 1
        if taken[class_of(row)] <= cap:
            staying.append(row)
    return staying


def _cap(counts: Sequence[int], share: float) -> int:
    """The largest number of rows of a class that is no larger share of what is left under it."""
    low, high = min(counts), max(counts)  # the smallest class fits: equal parts
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return low
