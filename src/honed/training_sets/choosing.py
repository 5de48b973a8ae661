"""Which of the rows that may teach enter the training file, and in which order.

First those go that say nearly what a held-out row says, or whose task is held out under another group; then
near-duplicates, where they are dropped; then what is beyond a share of the mixture. A blind control is drawn from
all that are left after the near-duplicates, in the number that the successes would have had.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from honed.domain.trained_model import Selection
from honed.training_sets.candidates import Candidate
from honed.training_sets.mixture import mixed
from honed.training_sets.near_duplicates import Signed, Texts, near_duplicates
from honed.training_sets.rules import Rules

NEAR_HELD_OUT: Final = "says nearly what a held-out episode says"
BOTH_SIDES: Final = "a part of it is held out and another was learned from"
NEAR_DUPLICATE: Final = "near-duplicate"
NOT_DRAWN: Final = "not drawn"
TOO_MANY_PAIRS: Final = "more pairs than learn.dpo.max_pairs"


class Chosen(NamedTuple):
    """The rows of a training file."""

    rows: list[Candidate]
    """In their order."""
    num_near: int | None
    """Rows that are marked as near-duplicates, and those that were dropped for it; None when nobody looked."""


def chosen(
    candidates: Sequence[Candidate],
    rules: Rules,
    selection: Selection,
    left_out: Counter[str],
    *,
    held_out: Texts,
    held_out_names: Collection[bytes],
    sketched: bool,
) -> Chosen:
    """The rows that are taken of all candidates; the others are counted by reason."""
    rows = sorted(candidates, key=lambda row: (row.place, row.origin.at_ms, row.key))
    rows = _apart(rows, held_out, held_out_names, left_out)
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


def largest_gaps(
    pairs: Sequence[Candidate], limit: int | None, left_out: Counter[str]
) -> list[Candidate]:
    """The pairs with the largest gaps, edited answers before all others."""
    ranked = sorted(pairs, key=lambda row: (*(-float(part) for part in row.worth), row.place))
    taken = ranked[:limit]
    left_out[TOO_MANY_PAIRS] += len(ranked) - len(taken)
    return taken


def _apart(
    rows: Sequence[Candidate], held_out: Texts, names: Collection[bytes], left_out: Counter[str]
) -> list[Candidate]:
    """The rows that have nothing of the held-out ones."""
    staying = []
    for row in rows:
        if not set(names).isdisjoint(row.origin.names):
            left_out[BOTH_SIDES] += 1
        elif any(held_out.has_nearly(*version) for version in row.versions):
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
