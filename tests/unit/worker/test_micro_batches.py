"""Which rows of a step go through the model together."""

import random
from collections.abc import Iterator

import pytest

from honed.worker.micro_batches import OVERHEAD, micro_batches

SEEDS = range(40)


def lengths_of(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randint(1, 900) for _ in range(chance.randint(1, 9))]


def cost(lengths: list[int], groups: list[list[int]]) -> int:
    return sum(len(group) * max(lengths[i] for i in group) + OVERHEAD for group in groups)


def all_divisions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to cut a sequence into pieces."""
    if not rows:
        yield []
    for end in range(1, len(rows) + 1):
        for rest in all_divisions(rows[end:]):
            yield [rows[:end], *rest]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_row_is_in_one_micro_batch(seed: int) -> None:
    """No row is lost or taken twice, whatever the lengths."""
    lengths = lengths_of(seed)
    groups = micro_batches(lengths, max_tokens=1000)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_limit_counts_padding(seed: int) -> None:
    """A micro-batch of several rows never has more tokens than allowed, padding counted."""
    lengths = lengths_of(seed)
    for group in micro_batches(lengths, max_tokens=1000):
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_division_costs_less(seed: int) -> None:
    """Of all divisions of the sorted rows within the limit, it is one of the cheapest."""
    lengths = lengths_of(seed)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    allowed = [
        groups
        for groups in all_divisions(order)
        if all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 1000 for g in groups)
    ]
    found = micro_batches(lengths, max_tokens=1000)
    assert cost(lengths, found) == min(cost(lengths, groups) for groups in allowed)


def test_rows_of_one_length_stay_together() -> None:
    """Where nothing is padding, only the limit divides."""
    assert micro_batches([50] * 8, max_tokens=10_000) == [list(range(8))]
    assert [len(group) for group in micro_batches([50] * 8, max_tokens=200)] == [4, 4]


def test_a_long_row_goes_alone() -> None:
    """A row beyond the limit is a micro-batch, and the short ones are not padded to it."""
    assert micro_batches([5000, 60, 61], max_tokens=1000) == [[1, 2], [0]]
