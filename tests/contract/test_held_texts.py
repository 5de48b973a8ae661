"""What every store remembers of texts that were held out."""

import struct

import pytest

from honed.domain.held_text import NUM_PARTS, HeldText, least_equal
from honed.stores import SqlStore

pytestmark = pytest.mark.anyio

LEAST = least_equal(0.8)


def held(number: int, *, changed: int = 0) -> HeldText:
    """A text of its own; with `changed` some of its parts, and the bands that they are in, are others."""
    values = [number * 200 + i for i in range(NUM_PARTS)]
    values[:changed] = [60_000 + i for i in range(changed)]
    bands = tuple(hash(tuple(values[i : i + 4])) for i in range(0, NUM_PARTS, 4))
    digest = struct.pack("<8xII", number, changed)
    return HeldText(digest, struct.pack(f"<{NUM_PARTS}H", *values), bands)


async def near(store: SqlStore, *texts: HeldText) -> list[bool]:
    return await store.lessons.near_held_out(texts, least=LEAST)


async def test_a_text_is_known_again_by_its_words_or_by_most_of_its_parts(store: SqlStore) -> None:
    """25 of 128 parts may be others at a similarity of 0.8, not 26; nothing else is near."""
    assert await near(store, held(1)) == [False]
    await store.lessons.hold_out([held(1), held(2)])
    asked = (held(1), held(1, changed=25), held(1, changed=26), held(3), held(2, changed=3))
    assert await near(store, *asked) == [True, True, False, False, True]
    assert await near(store) == []


async def test_without_parts_the_words_alone_tell_until_the_parts_come(store: SqlStore) -> None:
    """A text that was remembered where no sketch could be made gets its parts when one can."""
    bare = held(1)._replace(parts=b"", bands=())
    await store.lessons.hold_out([bare])
    assert await near(store, bare, held(1), held(1, changed=9)) == [True, True, False]
    await store.lessons.hold_out([held(1)])
    await store.lessons.hold_out([bare])
    assert await near(store, bare, held(1), held(1, changed=9)) == [True, True, True]


async def test_only_the_bands_that_are_asked_for_are_looked_at(store: SqlStore) -> None:
    """One that both have is enough to find it."""
    await store.lessons.hold_out([held(1)])
    other = held(1, changed=4)
    assert await near(store, other._replace(bands=other.bands[:1])) == [False]
    assert await near(store, other._replace(bands=other.bands[:2])) == [True]


async def test_many_texts_that_share_a_band_are_all_compared(store: SqlStore) -> None:
    """Said again and again they are remembered once, and the one that is near is found among all."""
    texts = [made._replace(bands=(7, *made.bands[1:])) for made in (held(n) for n in range(300))]
    for _ in range(2):
        await store.lessons.hold_out(texts)
    last = held(299, changed=10)._replace(bands=(7,))
    assert await near(store, last, held(300)._replace(bands=(7,))) == [True, False]


async def test_texts_of_one_template_are_all_compared_and_told_apart(store: SqlStore) -> None:
    """They share bands and many parts with all that is remembered; only those that are near are found, however many
    pages that takes."""
    template = held(9)

    def of_template(number: int, own: int) -> HeldText:
        parts = held(number).parts[: 2 * own] + template.parts[2 * own :]
        bands = held(number).bands[: own // 4] + template.bands[own // 4 :]
        return HeldText(held(number).digest, parts, bands)

    await store.lessons.hold_out([of_template(n, 52) for n in range(120, 140)])
    asked = [of_template(n, 52) for n in range(150, 170)]
    assert await near(store, *asked) == [False] * 20
    again = [made._replace(digest=bytes(16)) for made in (of_template(130, 52), asked[3])]
    assert await near(store, *again[:1]) == [True]
    assert await near(store, *again[1:]) == [False]
