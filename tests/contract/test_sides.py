"""On which side of the held-out split a name stands, once a training has used it; on every store."""

import pytest

from honed.stores import SqlStore

pytestmark = pytest.mark.anyio


async def test_a_side_once_settled_never_changes(store: SqlStore) -> None:
    """What comes later is told which of its names stand on the other side, and moves nothing."""
    names = [bytes([n]) * 16 for n in range(4)]
    lessons = store.lessons
    assert await lessons.sides(names) == {}
    assert await lessons.settle_sides({names[0]: True, names[1]: False}) == frozenset()
    assert await lessons.settle_sides({names[0]: True, names[2]: True}) == frozenset()
    assert await lessons.settle_sides({names[0]: False, names[1]: True}) == {names[0], names[1]}
    assert await lessons.sides(names) == {names[0]: True, names[1]: False, names[2]: True}


async def test_more_names_than_fit_a_statement(store: SqlStore) -> None:
    """All of a large training's names are settled and found."""
    sides = {n.to_bytes(16, "big"): n % 5 == 0 for n in range(1_201)}
    assert await store.lessons.settle_sides(sides) == frozenset()
    assert await store.lessons.sides(list(sides)) == sides
