"""The outcome of a stored episode follows the config's composition, whenever a verdict comes."""

import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.composition import PLAIN, Composition, Weight
from honed.domain.episode import Episode
from honed.domain.outcome import Failure, Outcome, Success, Unknown
from honed.domain.run import Run
from honed.learn_models import ChatLearnModel
from honed.ports import EpisodeFilter
from honed.sink import Sink
from honed.stores import SqlStore, open_store

pytestmark = pytest.mark.anyio

WEIGHTED = Composition(rule="weighted", weights=(Weight("user:*", 2), Weight("judge:*", 0.5)))
ANN = {"outcome": {"type": "success", "score": 1.0}, "source": "user:ann"}
TESTS = {"outcome": {"type": "failure", "reason": "red"}, "source": "tests"}
JUDGE = {"outcome": {"type": "failure", "reason": "rude"}, "source": "judge:m", "version": "1"}
CALL = {
    "type": "llm_call",
    "event_id": "call",
    "task_id": "t",
    "messages": [{"role": "user", "content": "Which queue?"}],
    "response_message": {"role": "assistant", "content": "billing"},
}
DONE = {
    "type": "action",
    "event_id": "done",
    "task_id": "t",
    "tick": 1,
    "worker_id": 0,
    "action": "done",
    "result": {"success": True},
}


async def _stored(
    composition: Composition, early: Sequence[Any], late: Sequence[Any], url: str = "sqlite://"
) -> Outcome:
    """The outcome of an attempt with some verdicts before its end and some after."""
    async with open_store(url, composition=composition) as store:
        sink = await _closed(store, [CALL, *early])
        for number, told in enumerate(late, 100):
            await sink.ingest([_line(number, told)])
        (row,) = await store.list_episodes(EpisodeFilter())
        assert (await _known(store)) == (not isinstance(row.outcome, Unknown))
        return row.outcome


async def _closed(store: SqlStore, events: Sequence[Any]) -> Sink:
    """The sink that has made an episode of these events."""
    closed: list[Episode] = []
    sink = Sink(
        store,
        [ChatLearnModel()],
        scenario="s",
        secret=b"k" * 32,
        settle=timedelta(0),
        idle=timedelta(0),
        on_episode=closed.append,
    )
    await sink.ingest([_line(number, event) for number, event in enumerate(events)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sink.run)
        with anyio.fail_after(60):
            while not closed:
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
    return sink


async def _known(store: SqlStore) -> bool:
    return bool((await store.start_scenario("s", "chat", now_ms=1)).known_count)


def _line(number: int, told: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": "outcome", "task_id": "t", "event_id": f"e{number}"} | told)


@pytest.mark.parametrize("num_early", [1, 2, 3])
async def test_early_or_late_the_same_verdicts_make_the_same_outcome(num_early: int) -> None:
    """By weight, 2 against 1.5, in every order, before the attempt's end or after it."""
    for order in permutations((ANN, TESTS, JUDGE)):
        found = await _stored(WEIGHTED, order[:num_early], order[num_early:])
        assert found == Success(2 / 3.5), order


async def test_a_late_verdict_turns_the_outcome() -> None:
    """What two have made together is made anew when the third comes."""
    assert await _stored(WEIGHTED, [ANN], [TESTS]) == Success(2 / 3)
    bob = TESTS | {"source": "user:bob"}
    found = await _stored(WEIGHTED, [ANN], [TESTS, bob])
    assert isinstance(found, Failure)


async def test_what_is_left_out_leaves_the_attempt_s_own_word() -> None:
    """A source of weight 0 is kept and not heard; what `done` says stands meanwhile, early or late."""
    deaf = Composition(rule="first", weights=(Weight("tests", 0),))
    assert await _stored(deaf, [TESTS], []) == Unknown()
    assert await _stored(deaf, [DONE, TESTS], []) == Success()
    assert await _stored(deaf, [DONE], [TESTS]) == Success()
    assert await _stored(deaf, [DONE], [TESTS, JUDGE]) == Failure("rude")
    assert await _stored(deaf, [DONE, JUDGE], [TESTS]) == Failure("rude")


async def test_a_judge_that_comes_late_undoes_nothing() -> None:
    """Without a rule in the config too: what the tests saw stands, with a version or without."""
    said = JUDGE | {"outcome": {"type": "success", "score": 1.0}}
    unversioned = {key: value for key, value in said.items() if key != "version"}
    for judge in (said, unversioned):
        assert await _stored(PLAIN, [TESTS], [judge]) == Failure("red")
        assert await _stored(PLAIN, [judge], [TESTS]) == Failure("red")
        assert await _stored(PLAIN, [judge, TESTS], []) == Failure("red")
        assert await _stored(PLAIN, [TESTS, judge], []) == Failure("red")
        assert await _stored(PLAIN, [DONE], [judge | {"outcome": TESTS["outcome"]}]) == Failure(
            "red"
        )


async def test_a_verdict_that_moves_the_outcome_marks_the_episode_changed() -> None:
    """Triggers see what a training has not; a vote that turns nothing leaves nothing to learn."""
    first = Composition(rule="first", weights=(Weight("user:*"), Weight("*")))
    async with open_store("sqlite://", composition=first) as store:
        sink = await _closed(store, [CALL, TESTS])
        await store.start_scenario("s", "chat", now_ms=1)
        run = Run(
            id="r",
            scenario="s",
            learn_model="chat",
            state="done",
            reason="count(1)",
            started_at_ms=1,
            ended_at_ms=2,
        )
        await store.add_run(run)
        await store.end_run(run, trained_count=1)
        await sink.ingest([_line(2, TESTS | {"outcome": {"type": "failure", "reason": "again"}})])
        assert (await store.lessons.material("s", "chat", limit=9)).num_changed == 0
        await sink.ingest([_line(3, ANN)])
        assert (await store.lessons.material("s", "chat", limit=9)).num_changed == 1
        await sink.ingest([_line(4, TESTS)])
        (row,) = await store.list_episodes(EpisodeFilter())
        assert row.outcome == Success()


async def test_an_episode_s_traits_are_stored_with_it(tmp_path: Path) -> None:
    """What alarms compare needs no look at the conversations."""
    await _stored(WEIGHTED, [DONE, ANN], [], f"sqlite:///{tmp_path / 'b.db'}")
    db = sqlite3.connect(tmp_path / "b.db")
    assert db.execute("SELECT num_tool_calls, answer_chars FROM episodes").fetchall() == [(1, 7)]
    db.close()
