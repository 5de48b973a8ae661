"""What is remembered of held-out texts, and which of them may say what others say.

Each function runs inside its caller's transaction.
"""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec
from sqlalchemy import LargeBinary, bindparam, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.held_text import HeldText
from honed.stores import tables as t
from honed.stores.dialects import among, is_postgres, upsert

# one step down an index for each band, however many texts share it
_KNOWN_IN_SQLITE: Final = text(
    "SELECT value FROM json_each(:bands) AS asked"
    " WHERE EXISTS (SELECT 1 FROM held_bands WHERE band = asked.value)"
)
_KNOWN_IN_POSTGRES: Final = text(
    "SELECT CAST(value AS BIGINT) FROM json_array_elements_text(CAST(:bands AS JSON)) AS asked(value)"
    " WHERE EXISTS (SELECT 1 FROM held_bands WHERE band = CAST(asked.value AS BIGINT))"
)


async def whole(db: AsyncConnection, digests: Collection[bytes]) -> set[bytes]:
    """Those of these texts of which all is remembered that can be."""
    h = t.held_texts.c
    query = select(h.digest).where(h.digest.in_(digests), func.length(h.parts) > 0)
    return set(map(bytes, (await db.execute(query)).scalars()))


async def remember(db: AsyncConnection, texts: Sequence[HeldText]) -> None:
    """Remember texts; of one that is known without its parts, those are added."""
    h = t.held_texts.c
    by_digest = {held.digest: held for held in texts}
    rows = [{"digest": digest, "parts": b""} for digest in by_digest]
    await db.execute(upsert(db, t.held_texts).on_conflict_do_nothing(), rows)
    query = select(h.id, h.digest).where(h.digest.in_(by_digest), func.length(h.parts) == 0)
    bare = [(row.id, by_digest[bytes(row.digest)]) for row in await db.execute(query)]
    told = [{"its_id": id, "its_parts": held.parts} for id, held in bare if held.parts]
    if not told:
        return
    change = update(t.held_texts).where(h.id == bindparam("its_id"))
    await db.execute(change.values(parts=bindparam("its_parts", type_=LargeBinary)), told)
    bands = [{"band": band, "text_id": id} for id, held in bare for band in held.bands]
    await db.execute(upsert(db, t.held_bands).on_conflict_do_nothing(), bands)


async def equal(db: AsyncConnection, texts: Sequence[HeldText]) -> set[bytes]:
    """The digests of those texts that say what a remembered one says, to the word."""
    h = t.held_texts.c
    query = select(h.digest).where(h.digest.in_({held.digest for held in texts}))
    return set(map(bytes, (await db.execute(query)).scalars()))


async def sharing(db: AsyncConnection, texts: Sequence[HeldText]) -> list[int]:
    """The ids of all remembered texts that share a band with one of these."""
    known = await _known(db, {band for held in texts for band in held.bands})
    if not known:
        return []
    b = t.held_bands.c
    query = select(b.text_id).where(among(b.band, known)).distinct()
    return sorted((await db.execute(query)).scalars())


async def parts(db: AsyncConnection, ids: Sequence[int]) -> list[bytes]:
    """The parts of remembered texts."""
    h = t.held_texts.c
    query = select(h.parts).where(among(h.id, ids), func.length(h.parts) > 0)
    return list(map(bytes, (await db.execute(query)).scalars()))


async def _known(db: AsyncConnection, bands: Collection[int]) -> set[int]:
    if not bands:
        return set()
    query = _KNOWN_IN_POSTGRES if is_postgres(db) else _KNOWN_IN_SQLITE
    told = msgspec.json.encode(sorted(bands)).decode()
    return set((await db.execute(query, {"bands": told})).scalars())
