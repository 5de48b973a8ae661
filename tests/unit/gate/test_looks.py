"""Looks at the same held-out episodes are counted, and cost."""

import pytest

from honed.gate import looks


def ids(*numbers: range) -> list[str]:
    return [f"episode-{n}" for each in numbers for n in each]


def test_all_looks_together_cost_no_more_than_alpha() -> None:
    """However many candidates come, the levels never add up to more."""
    total = sum(looks.level(0.01, look) for look in range(1, 20_000))
    assert 0.0099 < total < 0.01


@pytest.mark.parametrize("num", [30, 400, 5_000])
def test_the_same_episodes_count(num: int) -> None:
    """Judging another candidate by the same held-out set is another look."""
    seen = looks.sketch(ids(range(num)))
    assert looks.num_counting(ids(range(num)), [seen, seen]) == 2


@pytest.mark.parametrize("num", [30, 400, 5_000])
def test_a_set_that_has_grown_to_much_more_is_new(num: int) -> None:
    """A look counts while half of the present episodes are those it saw, and no longer."""
    seen = looks.sketch(ids(range(num)))
    grown = ids(range(round(1.4 * num)))
    assert looks.num_counting(grown, [seen]) == 1
    assert looks.num_counting(ids(range(3 * num)), [seen]) == 0
    assert looks.num_counting(ids(range(num, 2 * num)), [seen]) == 0


def test_a_set_that_moves_on_forgets_its_looks() -> None:
    """Where old episodes fall out as new ones come, looks fall out with them."""
    sketches = [looks.sketch(ids(range(at, at + 1_000))) for at in range(0, 3_000, 100)]
    counts = [
        looks.num_counting(ids(range(at, at + 1_000)), sketches[: at // 100])
        for at in range(0, 3_000, 100)
    ]
    assert counts[:4] == [0, 1, 2, 3]
    assert max(counts) <= 7


def test_where_nobody_can_tell_it_counts() -> None:
    """Too few episodes to find any of the smallest digests among them are taken as seen."""
    assert looks.num_counting(["one"], [looks.sketch(ids(range(100_000)))]) == 1


def test_no_episodes_are_no_look() -> None:
    """Without held-out episodes nothing can have been seen before."""
    assert looks.num_counting([], [looks.sketch(ids(range(10)))]) == 0


def test_a_sketch_is_small() -> None:
    """It stands in the verdict of each adapter, which the store reads again and again."""
    assert len(looks.sketch(ids(range(100_000)))) == 512
