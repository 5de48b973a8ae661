"""A process that is killed with -9 at any moment, between two commits or in one, leaves a store that is right."""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.outcome import Outcome
from honed.domain.run import Run
from honed.domain.verdict import worth
from honed.stores import SqlStore, changes, open_store
from tests.contract.at_work import COMPOSITION, MINE

pytestmark = pytest.mark.anyio

_ROOT = Path(__file__).parents[2]
_decode_outcome = msgspec.json.Decoder(Outcome).decode
_AGAIN = 3
"""Steps that the next process takes again, as a sender does that has heard no answer."""


def _killed(url: str, spell: int, since: int, chance: random.Random) -> tuple[int, set[str]]:
    """Have a process work and kill it; its last step, and the events that it was told are stored."""
    command = [sys.executable, "-m", "tests.contract.at_work", url, str(spell), str(since)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(_AGAIN + chance.randrange(2, 15))]
        time.sleep(chance.random() * 0.02)  # the moment is the point: in a step, or between two
        child.kill()
        told += child.stdout.readlines()
    whole = [line.split() for line in told if line.endswith("\n")]
    assert whole, "it has not worked at all"
    return int(whole[-1][0]), {event_id for line in whole for event_id in line[1:]}


async def _survives(url: str, *, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    stored: set[str] = set()
    since = 0
    for kill in range(kills):
        last, told = _killed(url, seed, since, chance)
        stored |= told
        since = max(0, last + 1 - _AGAIN)
        async with open_store(url, composition=COMPOSITION) as store:
            await _is_right(store, stored)
            facts = await store.start_scenario(*MINE, now_ms=1)
            assert facts.episode_count or not kill


async def test_a_kill_at_any_moment_leaves_a_store_that_is_right(lasting_url: str) -> None:
    """What was acknowledged is there once, sums are those of the rows, outcomes those of the verdicts."""
    await _survives(lasting_url, kills=2, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 6))
async def test_many_kills_at_any_moment_leave_a_store_that_is_right(
    lasting_url: str, seed: int
) -> None:
    """The same for longer."""
    await _survives(lasting_url, kills=20, seed=seed)


async def _is_right(store: SqlStore, stored: set[str]) -> None:
    async with store._read() as db:
        await _counts_are_sums(db)
        await _nothing_is_double(db)
        await _outcomes_are_those_of_the_verdicts(db)
        found = set((await db.execute(text("SELECT event_id FROM records"))).scalars())
        assert stored <= found
        assert await _one(db, "SELECT count(*) FROM late_outcomes") == 0
        beyond = "SELECT count(*) FROM asked WHERE episode_id > (SELECT max(id) FROM episodes)"
        assert await _one(db, beyond) == 0
        for row in await db.execute(text("SELECT state, ended_at_ms, body FROM runs")):
            run = msgspec.json.decode(row.body, type=Run)
            assert (run.state, run.ended_at_ms) == (row.state, row.ended_at_ms)


async def _one(db: AsyncConnection, query: str) -> Any:
    return await db.scalar(text(query))


async def _counts_are_sums(db: AsyncConnection) -> None:
    assert await _one(db, "SELECT num_records FROM totals") == await _one(
        db, "SELECT count(*) FROM records"
    )
    for row in await db.execute(text("SELECT * FROM learning_states")):
        mine = f"scenario = '{row.scenario}' AND learn_model = '{row.learn_model}'"
        of_mine = f"FROM episodes WHERE {mine}"
        known = f"SELECT count(*) {of_mine} AND outcome_type"
        assert row.episode_count == await _one(db, f"SELECT count(*) {of_mine}")
        assert row.episode_count == (await _one(db, f"SELECT max(number) {of_mine}") or 0)
        assert row.known_count == await _one(db, f"{known} <> 'unknown'")
        assert row.success_count == await _one(db, f"{known} = 'success'")
        changed = f"SELECT count(*) FROM changed_episodes WHERE {mine} AND counted = 1"
        assert row.changed_count == await _one(db, changed)
    query = """
        SELECT e.id FROM episodes AS e LEFT JOIN episode_records AS r ON r.episode_id = e.id
        GROUP BY e.id, e.num_records HAVING e.num_records <> count(r.record_id)
    """
    assert not (await db.execute(text(query))).all()


async def _nothing_is_double(db: AsyncConnection) -> None:
    for query in (
        "SELECT episode_id, record_id FROM outcomes WHERE record_id IS NOT NULL",
        "SELECT episode_id, record_id FROM episode_records",
        "SELECT scenario, number FROM episodes",
        "SELECT episode_id, source FROM outcomes WHERE source = 'judge:m'",
    ):
        rows = Counter(map(tuple, (await db.execute(text(query))).all()))
        assert not [row for row, num in rows.items() if num > 1], query


async def _outcomes_are_those_of_the_verdicts(db: AsyncConnection) -> None:
    """The one that stands is made anew, and so is what has changed since the last training."""
    episodes = (await db.execute(text("SELECT id, outcome FROM episodes"))).all()
    verdicts = await changes.verdicts_of(db, [row.id for row in episodes])
    stands = {}
    for row in episodes:
        told = COMPOSITION.stands([verdict.told for verdict in verdicts.get(row.id, ())])
        stands[row.id] = (told or changes.NOTHING).outcome
        assert _decode_outcome(row.outcome) == stands[row.id]
    for row in await db.execute(text("SELECT * FROM changed_episodes")):
        has_moved = worth(stands[row.episode_id]) != (row.outcome_type, row.score)
        assert has_moved or row.demonstration is not None
