"""What happened, in order of time, for rules that are tried on it."""

from collections.abc import Sequence

import pytest

from honed.domain.outcome import Failure, Success
from honed.domain.times import now_ms
from honed.ports import Verdict
from honed.stores import SqlStore
from honed.triggers.past import Made, PastEvent, Told
from tests.contract.test_store import episode

pytestmark = pytest.mark.anyio


async def past(store: SqlStore, *, since_ms: int = 0) -> list[PastEvent]:
    found: list[PastEvent] = []

    def take(events: Sequence[PastEvent]) -> None:
        found.extend(events)

    await store.past.events("airline", "chat", since_ms=since_ms, take=take)
    return found


async def test_episodes_and_verdicts_come_in_order_of_time(store: SqlStore) -> None:
    """A verdict counts from when it came; one that came with its episode, from then on."""
    verdicts = [
        Verdict(outcome=Success(0.5), source="test", at_ms=1_200),
        Verdict(outcome=Failure("late"), source="test", at_ms=9_000),
    ]
    await store.add_episode(episode(Failure("late"), ms=1_000, task_id="a"), [], verdicts=verdicts)
    await store.add_episode(episode(ms=5_000, task_id="b"), [])
    await store.add_episode(episode(ms=7_000, task_id="c", scenario="rail"), [])
    assert await store.past.first_ms("airline", "chat") == 1_000
    assert await past(store) == [
        Made(1_000, 1, 1_000),
        Told(1_000, 1, Success(0.5)),
        Made(5_000, 2, 5_000),
        Told(9_000, 1, Failure("late")),
    ]
    assert await past(store, since_ms=1_001) == [Made(5_000, 2, 5_000)]


async def test_a_verdict_of_today_counts_from_today(store: SqlStore) -> None:
    """However old its episode is."""
    before = now_ms()
    made = [episode(ms=1_000 + n, task_id=f"t{n}") for n in range(40)]
    for each in made:
        await store.add_episode(each, [])
    await store.set_outcome(made[3].id, Success())
    events = await past(store)
    assert [event.number for event in events] == [*range(1, 41), 4]
    assert isinstance(events[-1], Told)
    assert events[-1].at_ms >= before
