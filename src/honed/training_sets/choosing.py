"""Which of the rows that may teach enter the training file, and in which order.

First those go that say nearly what a held-out row says or ever said, or whose task is held out under another group;
then near-duplicates, where they are dropped; then what is beyond a share of the mixture. A blind control is drawn
from all that are left after the near-duplicates, in the number that the successes would have had.

Where attempts on both sides of the split say nearly the same, those stay whose side an earlier training has settled,
else the one that began first; the others are used for neither, and none of them takes another one along. So a text
that comes back under ever new names is learned from or held out as it was the first time.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from heapq import heappush, heappushpop
from typing import Any, Final, NamedTuple

from honed.domain.trained_model import Selection
from honed.domain.training_data import PreferencePair
from honed.ports import HeldOut
from honed.training_sets.candidates import Candidate, Origin, place
from honed.training_sets.mixture import mixed
from honed.training_sets.near_duplicates import Signed, Texts, near_duplicates
from honed.training_sets.rows import SpooledRow, row_digest
from honed.training_sets.rules import Rules

NEAR_LEARNED: Final = "held out, but says nearly what is learned from"
NEAR_HELD_OUT: Final = "says nearly what a held-out episode says"
BOTH_SIDES: Final = "a part of it is held out and another was learned from"
NEAR_DUPLICATE: Final = "near-duplicate"
NOT_DRAWN: Final = "not drawn"
TOO_MANY_PAIRS: Final = "more pairs than learn.dpo.max_pairs"


class HeldRow(NamedTuple):
    """An episode on the side that is held out."""

    origin: Origin
    is_settled: bool
    """Whether an earlier training has held out all of its names."""
    said: bytes
    sketch: Any
    """Both as in `Candidate.versions`."""
    evidence: tuple[HeldOut, SpooledRow] | None = None
    """What the gate reads; None when nobody has judged it yet."""

    @property
    def age(self) -> tuple[int, str]:
        """When it began; of those that began at once, the one whose id is lower counts as older."""
        return self.origin.at_ms, self.origin.episode_ids[0]


class Chosen(NamedTuple):
    """The rows of a training file."""

    rows: list[Candidate]
    """In their order."""
    num_near: int | None
    """Rows that are marked as near-duplicates, and those that were dropped for it; None when nobody looked."""


def kept_out(
    held_out: Sequence[HeldRow],
    candidates: Sequence[Candidate],
    settled: Collection[bytes],
    similarity: float,
    *,
    held_out_names: frozenset[bytes] = frozenset(),
) -> list[HeldRow]:
    """The held-out rows without those that say nearly what is learned from.

    Likeness is no chain: where a row is not learned from because of one held-out row, it takes no other away.

    Args:
        held_out: all episodes of that side.
        candidates: rows of the other.
        settled: names whose side an earlier training has settled.
        similarity: as in `Rules`.
        held_out_names: names that are held out; a candidate that has one is not learned from.
    """
    texts = Texts(similarity)
    for held in held_out:
        texts.add(held.said, held.sketch)
    out: set[int] = set()
    # those first that nothing can come before, then by age: what is before a row is decided when it is its turn
    for row in sorted(candidates, key=lambda row: (not _is_settled(row, settled), *_age(row))):
        if row.is_held_out or not held_out_names.isdisjoint(row.origin.names):
            continue
        near = {number for version in row.versions for number in texts.near(*version)} - out
        later = {number for number in near if _came_first(row, held_out[number], settled)}
        if near == later:
            out |= later
    return [held for number, held in enumerate(held_out) if number not in out]


def _came_first(row: Candidate, held: HeldRow, settled: Collection[bytes]) -> bool:
    return not held.is_settled and (_age(row) < held.age or _is_settled(row, settled))


def _age(row: Candidate) -> tuple[int, str]:
    return row.origin.at_ms, row.key


def _is_settled(row: Candidate, settled: Collection[bytes]) -> bool:
    return any(name in settled for name in row.origin.names)


def chosen(
    candidates: Sequence[Candidate],
    rules: Rules,
    selection: Selection,
    left_out: Counter[str],
    *,
    held_out: Sequence[HeldRow],
    held_out_names: Collection[bytes],
    sketched: bool,
) -> Chosen:
    """The rows that are taken of all candidates; the others are counted by reason."""
    rows = sorted(candidates, key=lambda row: (row.place, row.origin.at_ms, row.key))
    rows = _apart(rows, held_out, rules.similarity, frozenset(held_out_names), left_out)
    pool = _marked(rows, rules, selection) if sketched else rows
    num_near = sum(row.row.near is not None for row in pool)
    if rules.near_duplicates == "drop":
        pool = _unmarked(pool)
        left_out[NEAR_DUPLICATE] += num_near
    if selection == "blind":
        taught = [row for row in rows if row.is_taught]
        if rules.near_duplicates == "drop" and sketched:
            taught = _unmarked(_marked(taught, rules, selection))
        num_rows = min(len(mixed(taught, rules, Counter())), len(pool))
        left_out[NOT_DRAWN] += len(pool) - num_rows
        pool = pool[:num_rows]
    else:
        pool = mixed(pool, rules, left_out)
    if rules.near_duplicates == "keep":
        num_near = sum(row.row.near is not None for row in pool)
    return Chosen(pool, num_near if sketched else None)


class MinedPairs:
    """The pairs of all groups with the largest gaps, as `largest_gaps` ranks them; no more of them at a time.

    Args:
        limit: pairs at most.
        seed: of the order among equal gaps.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._heap: list[tuple[float, int, int, PreferencePair, Origin]] = []
        self._num = 0

    def add(self, pair: PreferencePair, gap: float, origin: Origin) -> None:
        """Take the next pair in, if there are not enough better ones."""
        self._num += 1
        is_full = len(self._heap) == self._limit
        if is_full and gap < self._heap[0][0]:
            return
        drawn = int.from_bytes(place(row_digest(pair), self._seed), "big")
        entry = (gap, -drawn, -self._num, pair, origin)
        if is_full:
            heappushpop(self._heap, entry)
        else:
            heappush(self._heap, entry)

    def take(self, left_out: Counter[str]) -> Iterator[tuple[PreferencePair, float, Origin]]:
        """The pairs with their gaps, in the order in which they came; the others are counted."""
        left_out[TOO_MANY_PAIRS] += self._num - len(self._heap)
        for gap, _, _, pair, origin in sorted(self._heap, key=lambda entry: -entry[2]):
            yield pair, gap, origin


def largest_gaps(
    pairs: Sequence[Candidate], limit: int | None, left_out: Counter[str]
) -> list[Candidate]:
    """The pairs with the largest gaps, edited answers before all others."""
    ranked = sorted(pairs, key=lambda row: (*(-float(part) for part in row.worth), row.place))
    taken = ranked[:limit]
    left_out[TOO_MANY_PAIRS] += len(ranked) - len(taken)
    return taken


def _apart(
    rows: Sequence[Candidate],
    held_out: Sequence[HeldRow],
    similarity: float,
    names: frozenset[bytes],
    left_out: Counter[str],
) -> list[Candidate]:
    """The rows that have nothing of the held-out ones."""
    texts = Texts(similarity)
    for held in held_out:
        texts.add(held.said, held.sketch)
    staying = []
    for row in rows:
        if not names.isdisjoint(row.origin.names):
            left_out[BOTH_SIDES] += 1
        elif row.is_held_out or any(texts.near(*version) for version in row.versions):
            left_out[NEAR_HELD_OUT] += 1
        else:
            staying.append(row)
    return staying


def _marked(rows: Sequence[Candidate], rules: Rules, selection: Selection) -> list[Candidate]:
    """The rows, those that say nearly what another one says with the episode of that one.

    Of two alike the one with the better outcome stays, of equals the newer; in a blind selection the newer.
    """
    ranked = sorted(
        enumerate(rows), key=lambda pair: (pair[1].origin.at_ms, pair[1].key), reverse=True
    )
    if selection == "successes":
        ranked.sort(key=lambda pair: pair[1].worth, reverse=True)  # stable
    signed = (Signed(str(number), row.sketch) for number, row in ranked)
    near = near_duplicates(signed, rules.similarity)
    return [
        row if (other := near.get(str(number))) is None else row.near(rows[int(other)].key)
        for number, row in enumerate(rows)
    ]


def _unmarked(rows: Sequence[Candidate]) -> list[Candidate]:
    return [row for row in rows if row.row.near is None]
