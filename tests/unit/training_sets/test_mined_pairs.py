"""The pairs with the largest gaps, found without keeping all of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from honed.domain.message import Message
from honed.domain.training_data import PreferencePair, TrainingMetadata
from honed.training_sets.candidates import Origin, place
from honed.training_sets.choosing import TOO_MANY_PAIRS, MinedPairs
from honed.training_sets.rows import row_digest

PAIRS = st.lists(st.tuples(st.sampled_from([0.2, 0.5, 1.0]), st.integers(0, 6)), max_size=30)


def pair(number: int, answer: int) -> PreferencePair:
    """Pair `number`; others may say the same."""

    def turn(role: str, text: str) -> tuple[Message, ...]:
        return (Message(role=role, content=text),)  # type: ignore[arg-type]

    return PreferencePair(
        prompt=turn("user", "which?"),
        chosen=turn("assistant", f"good {answer}"),
        rejected=turn("assistant", "bad"),
        metadata=TrainingMetadata(episode_id=f"e{number}"),
    )


@given(PAIRS, st.integers(1, 8), st.integers(0, 3))
def test_the_largest_gaps_of_all_stay_however_they_come(
    told: list[tuple[float, int]], limit: int, seed: int
) -> None:
    """The same as when all are kept and ranked at the end, and the same number is counted as too many."""
    all_of_them = [(pair(number, answer), gap) for number, (gap, answer) in enumerate(told)]
    mined = MinedPairs(limit, seed)
    origin = Origin((), (), 0, "", is_new=True)
    for made, gap in all_of_them:
        mined.add(made, gap, origin)
    left_out = Counter[str]()
    found = [(made, gap) for made, gap, _ in mined.take(left_out)]
    ranked = sorted(all_of_them, key=lambda each: (-each[1], place(row_digest(each[0]), seed)))
    expected = ranked[:limit]
    assert sorted(each[0].metadata.episode_id or "" for each in found) == sorted(
        each[0].metadata.episode_id or "" for each in expected
    )
    assert left_out[TOO_MANY_PAIRS] == len(told) - len(expected)
