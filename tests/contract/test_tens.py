"""What the drift condition asks of the store: whole tens of known outcomes since the last training."""

import random

import pytest

from honed.domain.outcome import Failure, Outcome, Success, Timeout, Unknown
from honed.ports import EpisodeFilter
from honed.stores import SqlStore
from honed.triggers import Needs
from tests.contract.test_store import episode, run

pytestmark = pytest.mark.anyio


async def tens(store: SqlStore, limit: int = 200) -> tuple[int, ...]:
    facts = await store.trigger_context("airline", "chat", now_ms=9_000, needs=Needs(tens=limit))
    return facts.tens


async def test_outcomes_are_counted_by_tens_that_do_not_move(store: SqlStore) -> None:
    """Known ones only, since the last training, newest first; the newest ten counts once it is full."""
    await store.start_scenario("airline", "chat", now_ms=1_000)
    chance, known = random.Random(5), list[bool]()
    kinds: list[Outcome] = [Success(), Success(0.1), Failure("x"), Timeout(0.9), Unknown()]
    for n in range(73):
        outcome = chance.choice(kinds)
        await store.add_episode(episode(outcome, ms=n, task_id=f"t{n}"), [])
        if not isinstance(outcome, Unknown):
            known.append(isinstance(outcome, Success))
        if n in (8, 60, 72):
            whole = [sum(known[at : at + 10]) for at in range(0, len(known) - 9, 10)]
            assert await tens(store) == tuple(reversed(whole))
    assert await tens(store, 2) == tuple(reversed(whole))[:2]
    await store.add_run(run())
    await store.end_run(run(state="done", ended_at_ms=8_000), trained_count=20, backoff_s=0)
    newer = len(whole) - -(
        -sum(not isinstance(o, Unknown) for o in await _outcomes(store, 20)) // 10
    )
    assert await tens(store) == tuple(reversed(whole))[:newer]


async def _outcomes(store: SqlStore, count: int) -> list[Outcome]:
    rows = await store.list_episodes(EpisodeFilter())
    return [row.outcome for row in sorted(rows, key=lambda row: row.created_at_ms)[:count]]


async def test_a_late_verdict_counts_where_its_episode_stands(store: SqlStore) -> None:
    """As if it had been known from the start; other tens are cut anew behind it."""
    await store.start_scenario("airline", "chat", now_ms=1_000)
    ids = []
    for n in range(20):
        made = episode(Unknown() if n == 0 else Failure("no"), ms=n, task_id=f"t{n}")
        await store.add_episode(made, [])
        ids.append(made.id)
    assert await tens(store) == (0,)
    await store.set_outcome(ids[0], Success())
    assert await tens(store) == (0, 1)
    await store.set_outcome(ids[15], Success())
    assert await tens(store) == (1, 1)
