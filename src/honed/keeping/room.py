"""Keeping the database within its size: the oldest goes until the data fit, whatever its age.

First what is part of no attempt, then attempts that a training has had the chance to learn from. What no
training has seen goes only where the config says so; else the data may take more than they should, and
that is told.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import anyio.lowlevel

from honed.ports import Aged, Keeping

_FIRST: Final = 50
_MOST: Final = 1_000
"""Attempts, or records of none, that are looked up at a time."""
_LOOKED: Final = 10_000
"""The same, where they are only counted: what goes is found anew."""

OnStep = Callable[[int, int], None]
"""Hears of each step: bytes that the data take, and episodes that have gone."""


class Made(NamedTuple):
    """What went to make room."""

    records: int = 0
    episodes: int = 0
    over_bytes: int = 0
    """What the data take beyond the limit all the same."""


async def make_room(
    keeping: Keeping, *, now_ms: int, max_bytes: int, untrained: bool, on_step: OnStep
) -> Made:
    """Remove the oldest until the data take `max_bytes` at most; safe to cut off at any moment.

    Args:
        keeping: what removes it.
        now_ms: what comes later stays, or a busy swarm would keep this from ending; Unix milliseconds.
        max_bytes: what data and indexes may take.
        untrained: whether what no training has seen may go as well.
        on_step: hears of each step.

    Raises:
        StoreError: the store cannot be written.
    """
    made = Made()
    for aged in _classes(now_ms, untrained):
        made = await _remove_oldest(keeping, aged, max_bytes, made, on_step)
    return made._replace(over_bytes=max(0, await _used(keeping) - max_bytes))


async def look(keeping: Keeping, *, now_ms: int, max_bytes: int, untrained: bool) -> Made:
    """What the data take beyond the limit, and the oldest of what `make_room` may remove for it.

    It removes no more than it needs; of attempts at most 10,000 of each class are counted here.
    """
    over_bytes = await over(keeping, max_bytes)
    records: frozenset[int] = frozenset()
    episodes: frozenset[str] = frozenset()
    for aged in _classes(now_ms, untrained) if over_bytes else ():
        extent = await keeping.aged(aged, limit=_LOOKED)
        records, episodes = records | extent.record_ids, episodes | extent.episode_ids
    return Made(len(records), len(episodes), over_bytes)


async def over(keeping: Keeping, max_bytes: int) -> int:
    """Bytes that the data take beyond the limit."""
    return max(0, await _used(keeping) - max_bytes)


def _classes(now_ms: int, untrained: bool) -> list[Aged]:
    """What may go to make room, one after another."""
    classes = [Aged(loose_before_ms=now_ms), Aged(passed_before_ms=now_ms)]
    if untrained:
        classes.append(Aged(unseen_before_ms=now_ms, unlabelled_before_ms=now_ms))
    return classes


async def _remove_oldest(
    keeping: Keeping, aged: Aged, max_bytes: int, made: Made, on_step: OnStep
) -> Made:
    """Remove the oldest of one class, no more at a time than seems to be needed."""
    used, limit = await _used(keeping), _FIRST
    while used > max_bytes:
        extent = await keeping.aged(aged, limit=limit)
        if not extent:
            break
        await keeping.remove(extent, forever=False, while_aged=aged)
        before, used = used, await _used(keeping)
        made = made._replace(
            records=made.records + len(extent.record_ids),
            episodes=made.episodes + len(extent.episode_ids),
        )
        on_step(used, made.episodes)
        # pages are freed whole, so that a small step may free none
        each = max(0, before - used) / (len(extent.group_ids) or len(extent.record_ids))
        needed = (used - max_bytes) / each if each else math.inf
        limit = math.ceil(min(_MOST, 2 * limit, max(1, needed)))
        await anyio.lowlevel.checkpoint()
    return made


async def _used(keeping: Keeping) -> int:
    found = await keeping.room()
    return found.used_bytes if found is not None else 0
