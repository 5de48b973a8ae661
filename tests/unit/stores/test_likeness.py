"""Comparing all texts with all remembered ones."""

import random
import sys

import pytest
from anyio import to_thread

from honed.domain.held_text import NUM_PARTS, HeldText, num_equal
from honed.stores import SqlStore, lessons, likeness, open_store

pytestmark = pytest.mark.anyio


def parts(rng: random.Random, template: bytes, *, shared: int) -> bytes:
    """Parts that agree with the template's in at least `shared` places."""
    own = bytearray(rng.randbytes(2 * NUM_PARTS))
    for place in rng.sample(range(NUM_PARTS), shared):
        own[2 * place : 2 * place + 2] = template[2 * place : 2 * place + 2]
    return bytes(own)


def some(seed: int) -> tuple[list[bytes], list[bytes]]:
    rng = random.Random(seed)
    template = rng.randbytes(2 * NUM_PARTS)
    known = [parts(rng, template, shared=rng.randrange(60, NUM_PARTS + 1)) for _ in range(60)]
    asked = [parts(rng, rng.choice(known), shared=rng.randrange(NUM_PARTS + 1)) for _ in range(90)]
    return asked, [*known, asked[0]]


@pytest.mark.parametrize("least", [1, 80, 103, NUM_PARTS])
def test_it_is_what_counting_one_by_one_gives(least: int) -> None:
    """Also where all parts agree, and where none has to."""
    asked, known = some(least)
    counted = [any(num_equal(one, other) >= least for other in known) for one in asked]
    assert likeness.near(asked, known, least=least) == counted
    assert counted[0]
    assert likeness.near(asked, [], least=least) == [False] * len(asked)
    assert likeness.near([], known, least=least) == []


def test_without_numpy_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may be asked where the packages for training are not installed."""
    asked, known = some(5)
    told = likeness.near(asked, known, least=103)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert likeness.near(asked, known, least=103) == told
    assert len(set(told)) == 2


async def test_it_is_compared_in_a_thread_with_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop has events to commit; the one that is near is found on whichever page it lies."""
    rng = random.Random(3)
    known = [HeldText(rng.randbytes(16), rng.randbytes(2 * NUM_PARTS), (7,)) for _ in range(9)]
    asked = [held._replace(digest=rng.randbytes(16)) for held in known]
    asked.append(HeldText(rng.randbytes(16), rng.randbytes(2 * NUM_PARTS), (7,)))
    num_threads = 0
    run_sync = to_thread.run_sync

    async def counted(*args: object, **kwargs: object) -> object:
        nonlocal num_threads
        num_threads += 1
        return await run_sync(*args, **kwargs)  # type: ignore[arg-type]

    async with open_store("sqlite://") as store:
        assert isinstance(store, SqlStore)
        await store.lessons.hold_out(known)
        monkeypatch.setattr(lessons, "_REMEMBERED", 4)
        monkeypatch.setattr(lessons, "_COMPARED", 5)
        monkeypatch.setattr(to_thread, "run_sync", counted)
        told = await store.lessons.near_held_out(asked, least=103)
    assert told == [True] * 9 + [False]
    # the first five are found on the first two pages; the others need all three
    assert num_threads == 5
