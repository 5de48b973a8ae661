"""The store's contract; conftest says on which databases."""

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from honed.domain.episode import Episode, EpisodeMetadata
from honed.domain.events import parse_event
from honed.domain.ids import EpisodeIds
from honed.domain.outcome import Failure, Success, Timeout, Unknown
from honed.domain.records import ActionRecord, record_from_event
from honed.domain.run import Applied, Run
from honed.domain.trained_model import GateResult, TrainedModel
from honed.errors import NotFoundError, StoreError, TriggerError
from honed.ports import Aged, Closing, EpisodeFilter
from honed.stores import SqlStore, late
from honed.triggers import Needs
from tests.feed_parts import action, call, close_all, failure, incoming, success

pytestmark = pytest.mark.anyio
IDS = EpisodeIds()
UNKNOWN = Unknown()


def episode(outcome: Any = UNKNOWN, *, ms: int = 1_000, **fields: Any) -> Episode:
    scenario = fields.pop("scenario", "airline")
    metadata = EpisodeMetadata(
        created_at_ms=ms, scenario=scenario, worker_id=fields.pop("worker_id", None)
    )
    return Episode(
        id=IDS.next(ms),
        learn_model="chat",
        records=(),
        metadata=metadata,
        outcome=outcome,
        **fields,
    )


async def counts(store: SqlStore) -> tuple[int, int, int]:
    state = await store.start_scenario("airline", "chat", now_ms=1)
    return state.episode_count, state.known_count, state.success_count


# ---------------------------------------------------------------- records


async def test_an_event_sent_twice_is_stored_once(store: SqlStore) -> None:
    """The second time it is called a duplicate and changes nothing."""
    event = incoming(action())
    assert await store.append([event]) == ["stored"]
    assert await store.append([event, event]) == ["duplicate", "duplicate"]
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    assert len((await store.group_records([group.id]))[group.id]) == 1


async def test_an_event_twice_in_one_batch_is_stored_once(store: SqlStore) -> None:
    """Order decides: the first is stored, the second is its duplicate."""
    event = incoming(action())
    assert await store.append([event, event]) == ["stored", "duplicate"]


async def test_a_known_id_with_other_content_is_a_conflict(store: SqlStore) -> None:
    """The first content stays."""
    first, other = action(event_id="e1"), action(event_id="e1", name="jump")
    assert await store.append([incoming(first)]) == ["stored"]
    assert await store.append([incoming(other), incoming(action())]) == ["conflict", "stored"]
    stats = await store.stats()
    assert (stats.num_records, stats.num_conflicts, stats.num_duplicates) == (2, 1, 0)


async def test_events_without_an_id_are_all_stored(store: SqlStore) -> None:
    """They cannot be recognised when they are sent again."""
    event = action()
    del event["event_id"]
    assert await store.append([incoming(event), incoming(event)]) == ["stored", "stored"]


async def test_a_thousand_concurrent_adds_lose_nothing(store: SqlStore) -> None:
    """Each caller gets its own answer and every event is there once, in a queue smaller than all."""
    events = [incoming(action(task_id=f"t{n % 50}")) for n in range(1_000)]
    answers: dict[int, list[str]] = {}

    async def add(n: int) -> None:
        answers[n] = list(await store.append([events[n], events[n // 2]]))

    async with anyio.create_task_group() as tasks:
        for n in range(1_000):
            tasks.start_soon(add, n)
    assert (await store.stats()).num_records == 1_000
    assert sum(answer.count("stored") for answer in answers.values()) == 1_000


async def test_a_batch_larger_than_the_queue_is_stored_in_order(store: SqlStore) -> None:
    """An empty queue takes anything; record ids rise in the order of the events."""
    events = [incoming(action(name=f"a{n}")) for n in range(5_000)]
    assert set(await store.append(events)) == {"stored"}
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    records = (await store.group_records([group.id]))[group.id]
    assert [r.action for r in records if isinstance(r, ActionRecord)] == [
        f"a{n}" for n in range(5_000)
    ]


async def test_a_cancelled_append_leaves_the_store_usable(store: SqlStore) -> None:
    """A caller that goes away takes nobody with it."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for n in range(50):
                tasks.start_soon(store.append, [incoming(action(task_id=f"t{n}"))])
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert await store.append([incoming(action())]) == ["stored"]


# ---------------------------------------------------------------- groups


async def test_a_group_is_due_when_it_has_settled_or_gone_idle(store: SqlStore) -> None:
    """An ended group waits for `settle`, a running one for `idle`."""
    await store.append([incoming(action(task_id="ended", name="done"), received_ms=100)])
    await store.append([incoming(action(task_id="running"), received_ms=50)])

    async def due(settled: int, idle: int) -> set[str]:
        found = await store.open_groups(settled_before_ms=settled, idle_before_ms=idle, now_ms=0)
        return {group.key for group in found}

    assert await due(99, 0) == set()
    assert await due(100, 0) == {"task:ended"}
    assert await due(100, 50) == {"task:ended", "task:running"}
    assert await store.next_due_ms(settle_ms=7, idle_ms=1_000) == 107
    assert await store.next_due_ms(settle_ms=5_000, idle_ms=30) == 80
    assert await store.next_due_ms(settle_ms=5_000, idle_ms=0) == 5_100


async def test_a_held_group_is_due_again_at_its_time_or_with_a_record(store: SqlStore) -> None:
    """Holding back survives in the store; whatever arrives for the group ends it."""
    await store.append([incoming(action(), received_ms=100)])
    [group] = await store.open_groups(settled_before_ms=0, idle_before_ms=100, now_ms=100)
    await store.hold_groups([group.id], until_ms=500)
    assert await store.open_groups(settled_before_ms=0, idle_before_ms=200, now_ms=499) == []
    assert await store.next_due_ms(settle_ms=0, idle_ms=10) == 500
    assert await store.open_groups(settled_before_ms=0, idle_before_ms=200, now_ms=500) == [group]
    await store.append([incoming(action(), received_ms=150)])
    assert len(await store.open_groups(settled_before_ms=0, idle_before_ms=200, now_ms=200)) == 1


async def test_a_record_that_comes_while_a_group_is_closed_is_not_lost(store: SqlStore) -> None:
    """Closing is refused when the group has grown since it was read."""
    await store.append([incoming(action())])
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    records = (await store.group_records([group.id]))[group.id]
    await store.append([incoming(action())])
    assert await store.close_groups([Closing(group.id, (episode(),), len(records))]) == set()
    assert (await store.stats()).num_episodes == 0
    assert await store.close_groups([Closing(group.id, (episode(),), 2)]) == {group.id}
    assert (await store.stats()).open_groups == 0


async def test_groups_are_closed_together(store: SqlStore) -> None:
    """All but the one that has grown; counters and numbers are as if each was closed alone."""
    assert not await store.has_records()
    await store.append([incoming(action(task_id=f"t{n}")) for n in range(4)])
    assert await store.has_records()
    groups = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    await store.append([incoming(action(task_id="t1"))])
    outcomes = [Success(1.0), Success(1.0), Failure("no"), UNKNOWN]
    made = [episode(outcome) for outcome in outcomes]
    closings = [Closing(group.id, (one,), 1) for group, one in zip(groups, made, strict=True)]
    closed = await store.close_groups(closings)
    assert closed == {groups[0].id, groups[2].id, groups[3].id}
    assert await counts(store) == (3, 2, 1)
    assert (await store.stats()).open_groups == 1
    listed = [row.id for row in await store.list_episodes(EpisodeFilter())]
    assert listed == [made[0].id, made[2].id, made[3].id]


async def test_a_fault_closes_none_of_the_groups(store: SqlStore) -> None:
    """All or nothing: an episode that cannot be stored leaves every group open."""
    await store.append([incoming(action(task_id=f"t{n}")) for n in range(2)])
    one, other = await store.open_groups(
        settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999
    )
    twice = episode()
    with pytest.raises(StoreError):
        await store.close_groups([Closing(one.id, (twice,), 1), Closing(other.id, (twice,), 1)])
    stats = await store.stats()
    assert (stats.num_episodes, stats.open_groups) == (0, 2)
    assert await counts(store) == (0, 0, 0)


async def test_a_record_for_a_closed_group_is_stored_and_counted_late(store: SqlStore) -> None:
    """It changes no episode."""
    await store.append([incoming(action())])
    [made] = await close_all(store)
    assert await store.append([incoming(action())]) == ["stored"]
    stats = await store.stats()
    assert (stats.num_records, stats.num_late, stats.open_groups) == (2, 1, 0)
    assert await store.get_episode(made.id) == made


# ---------------------------------------------------------------- outcomes


async def test_an_outcome_for_a_closed_task_becomes_the_episodes_outcome(store: SqlStore) -> None:
    """When `append` returns, episode and counters have moved; the newest verdict counts."""
    await store.append([incoming(action())])
    [made] = await close_all(store)
    assert await counts(store) == (1, 0, 0)
    await store.append([incoming(success(0.5, task_id="t1"))])
    assert (await store.get_episode(made.id)).outcome == Success(0.5)
    assert await counts(store) == (1, 1, 1)
    await store.append([incoming(failure("reverted", task_id="t1", source="person"))])
    assert (await store.get_episode(made.id)).outcome == Failure("reverted")
    assert await counts(store) == (1, 1, 0)
    assert (await store.stats()).num_late == 0


async def test_an_outcome_that_names_a_receipt_ends_the_group_of_its_call(store: SqlStore) -> None:
    """The call's own task need not be known to the sender of the verdict."""
    await store.append([incoming(call(task_id="t1", receipt_id="r1"))])
    await store.append([incoming(success(receipt_id="r1"))])
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=0, now_ms=9_999)
    assert (group.key, group.closing) == ("task:t1", True)
    [made] = await close_all(store)
    assert made.outcome == Success(1.0)


async def test_an_outcome_that_overtakes_its_call_waits_for_it(store: SqlStore) -> None:
    """Also across a batch: the call finds the verdict that came first."""
    await store.append([incoming(success(receipt_id="r1"))])
    await store.append([incoming(action(task_id="other"))])
    await store.append([incoming(call(task_id="t1", receipt_id="r1"))])
    made = await close_all(store)
    assert {e.task_id: e.outcome for e in made} == {"t1": Success(1.0), "other": Unknown()}


async def test_a_receipt_of_a_closed_group_finds_its_episode(store: SqlStore) -> None:
    """Days later the verdict still reaches the episode."""
    await store.append([incoming(call(task_id="t1", receipt_id="r1"))])
    [made] = await close_all(store)
    await store.append([incoming(failure("wrong", receipt_id="r1"))])
    assert (await store.get_episode(made.id)).outcome == Failure("wrong")


async def test_a_verdict_that_cannot_be_settled_yet_is_stored_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch is acknowledged, for it is committed; the next one brings the verdict to its episode."""
    await store.append([incoming(call(task_id="t1"))])
    [made] = await close_all(store)

    async def fails(db: object) -> bool:
        raise StoreError("database is locked")

    nameless = action()
    del nameless["event_id"]
    with monkeypatch.context() as patched:
        patched.setattr(late, "settle", fails)
        told = [incoming(nameless), incoming(failure("wrong", task_id="t1"))]
        assert await store.append(told) == ["stored", "stored"]
    assert (await store.get_episode(made.id)).outcome != Failure("wrong")
    await store.append([incoming(action())])
    assert (await store.get_episode(made.id)).outcome == Failure("wrong")


async def test_an_attempt_that_is_judged_while_it_is_cleared_away_stays(store: SqlStore) -> None:
    """Between the look and the removal a verdict came: it is no longer of the class that goes."""
    for task_id in ("t1", "t2"):
        await store.append([incoming(call(task_id=task_id))])
    one, other = await close_all(store)
    aged = Aged(unlabelled_before_ms=1 << 60)
    extent = await store.keeping.aged(aged, limit=10)
    assert extent.episode_ids == {one.id, other.id}
    await store.append([incoming(failure("wrong", task_id="t1"))])
    await store.keeping.remove(extent, forever=False, while_aged=aged)
    assert [row.id for row in await store.list_episodes(EpisodeFilter())] == [one.id]
    assert (await store.get_episode(one.id)).outcome == Failure("wrong")


async def test_what_is_said_later_belongs_to_the_episode(store: SqlStore) -> None:
    """Its record joins the others once, however often it comes; a comment changes no verdict."""
    await store.append([incoming(call(task_id="t1", receipt_id="r1"))])
    [made] = await close_all(store)
    better = incoming(failure("wrong", receipt_id="r1", demonstration="look twice"))
    comment = {"type": "outcome", "event_id": "c", "task_id": "t1", "comment": "odd"}
    for event in (better, incoming(comment), better):
        await store.append([event])
    found = await store.get_episode(made.id)
    assert [type(record).__name__ for record in found.records] == [
        "LlmCallRecord",
        "OutcomeRecord",
        "OutcomeRecord",
    ]
    assert found.outcome == Failure("wrong")
    assert [record.demonstration for record in found.demonstrations] == ["look twice"]


@pytest.mark.feature("SE-053")
async def test_verdicts_are_kept_with_who_said_them(store: SqlStore) -> None:
    """In order of arrival; an older version of a source does not undo its newer one."""
    first = {"task_id": "t1", "source": "judge", "version": "v10"}
    await store.append([incoming(call(task_id="t1")), incoming(success(0.9, **first))])
    [made] = await close_all(store)
    await store.append([incoming(failure("old", task_id="t1", source="judge", version="v9"))])
    assert (await store.get_episode(made.id)).outcome == Success(0.9)
    said = {"task_id": "t1", "source": "ann", "comment": "it broke again"}
    await store.append([incoming(failure("reopened", **said))])
    assert (await store.get_episode(made.id)).outcome == Failure("reopened")
    told = (await store.provenance([made.id]))[made.id].verdicts
    assert [(said.source, said.version, said.comment) for said in told] == [
        ("judge", "v10", None),
        ("judge", "v9", None),
        ("ann", None, "it broke again"),
    ]
    assert await counts(store) == (1, 1, 0)


async def test_a_verdict_on_a_group_is_one_on_each_of_its_episodes(store: SqlStore) -> None:
    """Those that are there by then, and no others; a comment on a group changes nothing."""
    for task in ("t1", "t2"):
        await store.append([incoming(call(task_id=task, group_id="g"))])
    await store.append([incoming(call(task_id="t3", group_id="other"))])
    made = {e.task_id: e.id for e in await close_all(store)}
    await store.append([incoming(success(0.7, group_id="g", source="desk"))])
    comment = {"type": "outcome", "event_id": "c", "group_id": "g", "comment": "odd"}
    await store.append([incoming(comment)])
    outcomes = {task: (await store.get_episode(id)).outcome for task, id in made.items()}
    assert outcomes == {"t1": Success(0.7), "t2": Success(0.7), "t3": Unknown()}
    told = (await store.provenance([made["t1"]]))[made["t1"]].verdicts
    assert [said.source for said in told] == ["desk"]
    assert (await store.attempts((), group_id="g")).episode_ids == (made["t1"], made["t2"])


async def test_set_outcome_moves_the_counters_both_ways(store: SqlStore) -> None:
    """Known and success follow every change; an unknown id is refused."""
    one = episode(task_id="t1")
    assert await store.add_episode(one, [])
    await store.set_outcome(one.id, Success(0.9), source="judge")
    assert await counts(store) == (1, 1, 1)
    await store.set_outcome(one.id, Timeout(0.2))
    assert await counts(store) == (1, 1, 0)
    await store.set_outcome(one.id, Unknown())
    assert await counts(store) == (1, 0, 0)
    with pytest.raises(NotFoundError):
        await store.set_outcome("0000000000000-00000000", Success())


# ---------------------------------------------------------------- episodes


@pytest.mark.feature("SE-049", "SE-051", "SE-060", "SE-061", "SE-076")
async def test_an_episode_comes_back_as_it_was_built(store: SqlStore) -> None:
    """Records, times, group, tags and outcome included."""
    sent = [
        call(task_id="t1", group_id="g1", tags={"customer": "7"}, timestamp_ms=3),
        action(task_id="t1", group_id="g1", context={"observation": "a cat 🐈"}),
        success(0.25, task_id="t1"),
    ]
    await store.append([incoming(event) for event in sent])
    [made] = await close_all(store)
    assert made.outcome == Success(0.25)
    assert made.metadata.tags == {"customer": "7"}
    assert await store.get_episode(made.id) == made
    with pytest.raises(NotFoundError):
        await store.get_episode("0000000000000-00000000")


async def test_add_episode_stores_a_task_once(store: SqlStore) -> None:
    """Importing twice adds nothing."""
    lines = [incoming(call(task_id="t1", receipt_id="r1")), incoming(success(task_id="t1"))]
    records = tuple(
        record_from_event(parse_event(entry.body), received_ms=entry.received_ms) for entry in lines
    )
    ready = episode(Success(1.0), task_id="t1", group_id="g")
    assert await store.add_episode(ready, lines)
    assert not await store.add_episode(episode(Success(1.0), task_id="t1"), lines)
    stats = await store.stats()
    assert (stats.num_records, stats.num_episodes, stats.open_groups) == (2, 1, 0)
    found = await store.get_episode(ready.id)
    assert [type(record) for record in found.records] == [type(record) for record in records]
    assert await counts(store) == (1, 1, 1)


async def test_a_verdict_reaches_an_imported_episode(store: SqlStore) -> None:
    """By its task and by the receipt of its call."""
    ready = episode(Success(1.0), task_id="t1")
    await store.add_episode(ready, [incoming(call(task_id="t1", receipt_id="r1"))])
    await store.append([incoming(failure("a", task_id="t1"))])
    assert (await store.get_episode(ready.id)).outcome == Failure("a")
    await store.append([incoming(failure("b", receipt_id="r1"))])
    assert (await store.get_episode(ready.id)).outcome == Failure("b")


@pytest.mark.feature("SE-051", "SE-062", "SE-063", "SE-065")
async def test_filters_hold_together(store: SqlStore) -> None:
    """Every given field must fit; None means any."""
    made = [
        episode(Success(n / 10), ms=1_000 + n, task_id=f"t{n}", worker_id=n % 3) for n in range(10)
    ]
    made.append(episode(Failure("x"), ms=2_000, task_id="tf", group_id="g"))
    made.append(episode(ms=3_000, task_id="tu", scenario="rail"))
    for one in made:
        await store.add_episode(one, [])

    async def ids(**fields: Any) -> list[str]:
        filter = EpisodeFilter(**fields)
        rows = [row.id for row in await store.list_episodes(filter)]
        assert rows == [whole.id async for whole in store.query_episodes(filter)]
        return rows

    every = [one.id for one in made]
    assert await ids() == every
    assert await ids(newest_first=True, limit=3) == every[:-4:-1]
    assert await ids(offset=2, limit=2) == every[2:4]
    assert await ids(scenario="rail") == every[-1:]
    assert await ids(outcomes=frozenset({"failure", "unknown"})) == every[-2:]
    assert await ids(min_score=0.8) == every[8:10]
    assert await ids(since_ms=1_003, until_ms=1_005) == every[3:6]
    assert await ids(worker_id=1, since_ms=1_002) == [every[4], every[7]]
    assert await ids(task_id="t4") == [every[4]]
    assert await ids(group_id="g") == [every[10]]
    assert await ids(learn_model="other") == []
    assert await store.count_episodes(EpisodeFilter(scenario="airline")) == 11


@pytest.mark.feature("SE-062", "SE-066")
async def test_pages_of_episodes_neither_overlap_nor_miss(store: SqlStore) -> None:
    """Reading whole episodes goes on while new ones arrive."""
    for n in range(40):
        await store.add_episode(episode(ms=n, task_id=f"t{n}"), [])
    seen = []
    async for whole in store.query_episodes(EpisodeFilter(limit=35)):
        seen.append(whole.task_id)
        if len(seen) == 20:
            await store.add_episode(episode(ms=0, task_id="late"), [])
    assert seen == [f"t{n}" for n in range(35)]


async def test_distinct_actions_are_those_of_the_scenarios_episodes(store: SqlStore) -> None:
    """Sorted, each once."""
    for name in ("look", "jump", "look", "done"):
        await store.append([incoming(action(name=name))])
    await close_all(store)
    assert await store.distinct_actions("airline") == ["done", "jump", "look"]
    assert await store.distinct_actions("rail") == []


# ---------------------------------------------------------------- what a scenario remembers


async def test_the_first_start_is_remembered(store: SqlStore) -> None:
    """A later start does not move it, nor do episodes imported before it."""
    await store.add_episode(episode(Success(), task_id="t1"), [])
    state = await store.start_scenario("airline", "chat", now_ms=1_000)
    assert (state.first_started_at_ms, state.episode_count, state.success_count) == (1_000, 1, 1)
    assert (await store.start_scenario("airline", "chat", now_ms=2_000)) == state


@pytest.mark.feature("SE-094")
async def test_the_triggers_facts_come_from_counters(store: SqlStore) -> None:
    """Recent outcomes are those of episodes since the last training, unknown ones left out."""
    with pytest.raises(TriggerError):
        await store.trigger_context("airline", "chat", now_ms=5, needs=Needs(outcomes=3))
    await store.start_scenario("airline", "chat", now_ms=1_000)
    outcomes = [Success(), Failure("a"), Unknown(), Success(0.5), Failure("b")]
    for n, outcome in enumerate(outcomes):
        await store.add_episode(episode(outcome, ms=n, task_id=f"t{n}"), [])
    facts = await store.trigger_context("airline", "chat", now_ms=9_000, needs=Needs(outcomes=3))
    assert facts.recent == (Failure("b"), Success(0.5), Failure("a"))
    assert (facts.episode_count, facts.count, facts.overall_success_rate) == (5, 5, 0.5)
    await store.add_run(run())
    ended = run(state="done", ended_at_ms=8_000)
    await store.end_run(ended, trained_count=4, backoff_s=0)
    facts = await store.trigger_context("airline", "chat", now_ms=9_000, needs=Needs(outcomes=3))
    assert facts.recent == (Failure("b"),)
    assert facts.count == 1
    assert facts.last_train_at is not None
    assert facts.last_train_at.timestamp() == 8


def run(**fields: Any) -> Run:
    default = {"id": "r1", "scenario": "airline", "learn_model": "chat", "state": "running"}
    return Run(**{**default, "started_at_ms": 7_000, "reason": "count(1)", **fields})


async def test_a_failed_run_leaves_a_back_off_that_success_clears(store: SqlStore) -> None:
    """The count of the last training stays where it was."""
    await store.start_scenario("airline", "chat", now_ms=1)
    await store.add_run(run())
    await store.end_run(run(state="failed", ended_at_ms=8_000, message="oom"), backoff_s=60)
    state = await store.start_scenario("airline", "chat", now_ms=2)
    assert (state.backoff_until_ms, state.backoff_s, state.last_train_count) == (68_000, 60, 0)
    await store.add_run(run(id="r2", started_at_ms=9_000))
    await store.end_run(run(id="r2", state="done", ended_at_ms=9_500), trained_count=3, backoff_s=0)
    state = await store.start_scenario("airline", "chat", now_ms=3)
    assert (state.backoff_until_ms, state.backoff_s, state.last_train_count) == (None, 0, 3)
    assert [r.id for r in await store.list_runs("airline")] == ["r2", "r1"]
    with pytest.raises(NotFoundError):
        await store.end_run(run(id="r9", ended_at_ms=1))


async def test_model_numbers_rise_and_are_given_once(store: SqlStore) -> None:
    """Also when many ask at once."""
    numbers: list[int] = []

    async def take() -> None:
        numbers.append(await store.next_model_number("airline"))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(take)
    assert sorted(numbers) == list(range(1, 21))
    assert await store.next_model_number("rail") == 1


async def test_models_and_their_verdicts_come_back(store: SqlStore) -> None:
    """Newest first; a verdict is kept with its model; an unknown id is refused."""
    models = [model(n) for n in (1, 2)]
    for one in models:
        await store.add_model(one)
    gate = GateResult(
        decision="pass",
        proof="outcome",
        incumbent_id=None,
        reason="better",
        num_successes=12,
        num_failures=11,
    )
    await store.set_gate("airline@1", gate)
    assert (await store.get_model("airline@1")).gate == gate
    assert [m.id for m in await store.list_models("airline")] == ["airline@2", "airline@1"]
    with pytest.raises(NotFoundError):
        await store.get_model("airline@3")
    with pytest.raises(NotFoundError):
        await store.set_gate("airline@3", gate)
    with pytest.raises(StoreError):
        await store.add_model(models[0])


def model(number: int) -> TrainedModel:
    return TrainedModel(
        id=f"airline@{number}",
        scenario="airline",
        run_id="r1",
        base_model="tiny",
        learn_model="chat",
        method="sft",
        adapter_path="/x",
        gguf_path=None,
        digest="d",
        data_digest="e",
        episode_ids=("a", "b"),
        sample_count=2,
        created_at_ms=number,
    )


async def test_the_history_is_a_compare_and_swap(store: SqlStore) -> None:
    """Nobody overwrites what he has not seen; the oldest entry falls out; going back works."""

    async def push(model_id: str, expected: str | None) -> bool:
        return await store.push_applied(
            "airline", model_id, expected=expected, max_history=2, now_ms=5
        )

    assert await push("airline@1", None)
    assert not await push("airline@2", None)
    assert await push("airline@2", "airline@1")
    assert await push("airline@3", "airline@2")
    assert await store.history("airline") == [
        Applied(model_id=model_id, applied_at_ms=5) for model_id in ("airline@2", "airline@3")
    ]
    assert not await store.pop_applied("airline", expected="airline@2")
    assert await store.pop_applied("airline", expected="airline@3")
    assert await store.pop_applied("airline", expected="airline@2")
    assert not await store.pop_applied("airline", expected="airline@2")
    assert await store.history("airline") == []


async def test_writes_cancelled_at_any_moment_happen_whole(store: SqlStore) -> None:
    """A transaction that has begun ends; the store answers on."""
    done = 0

    async def write(n: int) -> None:
        nonlocal done
        await store.add_episode(episode(ms=n, task_id=f"t{n}"), [])
        done += 1

    for n in range(30):
        with anyio.move_on_after(n / 10_000):
            await write(n)
    stored = await store.count_episodes(EpisodeFilter())
    assert stored >= done
    assert (await store.stats()).num_episodes == stored


async def test_tags_and_texts_of_any_script_survive(store: SqlStore) -> None:
    """Bodies are kept byte for byte."""
    event = action(target='"quoted" \\ \u0000 ä 中 🐈', tags={"k": json.dumps({"a": 1})})
    await store.append([incoming(event)])
    [made] = await close_all(store)
    [record] = (await store.get_episode(made.id)).actions
    assert (record.target, record.tags) == (event["target"], event["tags"])
