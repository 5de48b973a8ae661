"""A swarm whose attempts share a template: which side keeps what both sides nearly say."""

from itertools import permutations
from pathlib import Path

import pytest

from honed.domain.outcome import Success
from honed.errors import EmptyDataError
from honed.stores import SqlStore
from honed.training_sets.candidates import Candidate, Origin
from honed.training_sets.choosing import NEAR_HELD_OUT, NEAR_LEARNED, HeldRow, kept_out
from honed.training_sets.rows import SpooledRow
from tests.unit.training_sets.test_builder import HELD_OUT, KEPT, add, build, with_store
from tests.unit.training_sets.test_near_duplicates import attempt, words

SIMILARITY = 0.74


def chain() -> list[str]:
    """Texts of which each is near to the next one alone."""
    long = words(260, seed=1).split()
    return [" ".join(long[start : start + 200]) for start in (0, 20, 40)]


@pytest.mark.parametrize(
    "order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order))
)
def test_no_row_goes_for_one_that_goes_itself(tmp_path: Path, order: tuple[int, ...]) -> None:
    """What is not learned from takes no evidence away, in whatever order they come in."""
    first, middle, last = chain()
    told = [
        attempt(HELD_OUT[0], Success(), first, timestamp_ms=1),
        attempt(KEPT[0], Success(), middle, timestamp_ms=2),
        attempt(HELD_OUT[1], Success(), last, timestamp_ms=3),
    ]

    async def test(store: SqlStore, folder: Path) -> None:
        for number in order:
            await add(store, told[number])
        await add(store, attempt(KEPT[1], Success(), words(60, seed=5), timestamp_ms=4))
        made = await build(store, folder, similarity=SIMILARITY)
        assert made.left_out == {"held out": 2, NEAR_HELD_OUT: 1}
        assert (made.num_rows, len(made.held_out)) == (1, 2)

    with_store(test, tmp_path)


def test_a_row_that_is_held_out_under_another_name_takes_no_evidence_away() -> None:
    """It is not learned from, whenever it began."""
    older = Candidate(
        origin=Origin(("learned",), (b"task",), 1, "", is_new=True),
        row=SpooledRow(0, 0, 0, b""),
        place=b"",
        is_taught=True,
        worth=(False, 1.0),
        versions=((b"the same words", None),),
        sketch=None,
    )
    held = HeldRow(
        Origin(("held",), (b"other",), 2, "", is_new=True), False, b"the same words", None
    )
    names = frozenset({b"task"})
    assert kept_out([held], [older], (), 0.8, held_out_names=names) == [held]
    assert kept_out([held], [older._replace(is_held_out=True)], (), 0.8) == [held]
    assert kept_out([held], [older], (), 0.8) == []


@pytest.mark.parametrize("is_first_held_out", [True, False], ids=["held-out", "learned"])
def test_the_side_that_was_first_keeps_a_template(tmp_path: Path, is_first_held_out: bool) -> None:
    """The other one is left out whole; where that leaves nothing to learn from, the error says what to do."""
    sides = (HELD_OUT, KEPT) if is_first_held_out else (KEPT, HELD_OUT)

    async def test(store: SqlStore, folder: Path) -> None:
        for n in range(12):
            text = words(300, seed=1, swapped=1 + n % 2)
            name = sides[n % 2][n]
            await add(store, attempt(name, Success(), text, timestamp_ms=n + 1))
        if not is_first_held_out:
            made = await build(store, folder)
            assert (made.num_rows, made.left_out) == (6, {NEAR_LEARNED: 6})
            return
        with pytest.raises(EmptyDataError) as caught:
            await build(store, folder)
        assert caught.value.left_out == {"held out": 6, NEAR_HELD_OUT: 6}
        assert "one group_id" in (caught.value.advice or "")
        assert "learn.near_duplicate_similarity higher than 0.8" in (caught.value.advice or "")

    with_store(test, tmp_path)
