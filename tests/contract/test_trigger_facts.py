"""The facts that triggers judge: right on every store, and found by index alone."""

import contextlib
import random
import sqlite3
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from honed.domain.outcome import Failure, Outcome, Success, Unknown, is_known, is_success
from honed.domain.run import Run
from honed.stores import SqlStore, open_store
from honed.stores.migrations import STEPS
from honed.stores.postgres.schema import translated
from honed.stores.postgres.server import parse_server
from honed.stores.tables import metadata
from honed.triggers import Budget, Needs, RunTime, parse
from tests.contract.test_store import episode
from tests.feed_parts import action, incoming
from tests.trigger_load import NOW_MS, RULE, Query, fill, judge, listening

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def run(id: str, **fields: Any) -> Run:
    default = {"scenario": "airline", "learn_model": "chat", "state": "running", "reason": "x"}
    return Run(id=id, **{**default, **fields})


async def ran(store: SqlStore, id: str, began_ms: int, ended_ms: int | None, state: str) -> None:
    """A run with this end; None: it is in progress."""
    begun = run(id, started_at_ms=began_ms)
    await store.add_run(begun)
    if ended_ms is not None:
        await store.end_run(msgspec.structs.replace(begun, state=state, ended_at_ms=ended_ms))


@pytest.mark.feature("SE-094")
async def test_runs_of_a_period(store: SqlStore) -> None:
    """Those that began in it and the one before them; not those of others, nor those that trained nothing."""
    await store.start_scenario("airline", "chat", now_ms=1)
    needs = parse('budget(runs=1, per="3h")').needs
    ends = [(1, "done"), (2, "skipped"), (3, "failed"), (4, "cancelled"), (5, "failed"), (6, "")]
    for hour, state in ends:
        ended_ms = hour * HOUR_MS + 60_000 if state else None
        await ran(store, f"r{hour}", hour * HOUR_MS, ended_ms, state)
    await store.add_run(run("other", started_at_ms=5 * HOUR_MS, learn_model="dpo"))
    await store.add_run(run("elsewhere", started_at_ms=5 * HOUR_MS, scenario="rail"))
    facts = await store.trigger_context("airline", "chat", now_ms=7 * HOUR_MS, needs=needs)
    assert facts.runs == (
        RunTime(at(6 * HOUR_MS), None),
        RunTime(at(5 * HOUR_MS), at(5 * HOUR_MS + 60_000)),
        RunTime(at(4 * HOUR_MS), at(4 * HOUR_MS + 60_000)),
    )
    facts = await store.trigger_context("airline", "chat", now_ms=5 * HOUR_MS + 1, needs=needs)
    assert [time.started_at for time in facts.runs][-2:] == [at(3 * HOUR_MS), at(HOUR_MS)]
    assert (facts.failures, facts.last_run_at) == (2, at(5 * HOUR_MS + 60_000))
    nothing = await store.trigger_context("airline", "chat", now_ms=7 * HOUR_MS, needs=Needs())
    assert nothing.runs == ()


@pytest.mark.feature("SE-097", "SE-098")
async def test_what_waits_and_since_when_outlives_a_restart(lasting_url: str) -> None:
    """Episodes since the last training, its time and the first start; a third start moves none of them."""
    async with open_store(lasting_url) as store:
        await store.start_scenario("airline", "chat", now_ms=1_000)
        for n in range(3):
            await store.add_episode(episode(Success(), ms=n, task_id=f"t{n}"), [])
    async with open_store(lasting_url) as store:
        await store.start_scenario("airline", "chat", now_ms=2_000)
        facts = await store.trigger_context("airline", "chat", now_ms=3_000, needs=Needs())
        assert (facts.count, facts.first_started_at, facts.last_train_at) == (3, at(1_000), None)
        await store.add_run(run("r1", started_at_ms=4_000))
        ended = run("r1", started_at_ms=4_000, state="done", ended_at_ms=5_000)
        await store.end_run(ended, trained_count=2)
    async with open_store(lasting_url) as store:
        facts = await store.trigger_context("airline", "chat", now_ms=9_000, needs=Needs())
        assert (facts.count, facts.last_train_at, facts.last_run_at) == (1, at(5_000), at(5_000))


@pytest.mark.parametrize("seed", range(5))
async def test_a_budget_sees_what_runs_took(store: SqlStore, seed: int) -> None:
    """Against a plain sum over all runs, one after the other as they are, at random moments."""
    chance = random.Random(seed)
    await store.start_scenario("airline", "chat", now_ms=1)
    spans: list[tuple[int, int]] = []
    clock = 0
    for number in range(25):
        began = clock + chance.randrange(4 * HOUR_MS)
        clock = began + chance.randrange(3 * HOUR_MS)
        state = chance.choice(["done", "done", "failed", "cancelled", "interrupted", "skipped"])
        await ran(store, f"r{number:02}", began, clock, state)
        spans += [(began, clock)] if state != "skipped" else []
        per_ms, now_ms = chance.randrange(1, 30 * HOUR_MS), clock + chance.randrange(2 * HOUR_MS)
        budget = Budget(runs=1, gpu_hours=1, per=at(per_ms) - at(0))
        facts = await store.trigger_context("airline", "chat", now_ms=now_ms, needs=budget.needs)
        since = now_ms - per_ms
        num = sum(start > since for start, _ in spans)
        hours = sum(max(0, end - max(start, since)) for start, end in spans) / HOUR_MS
        told = budget.judge(facts).detail
        assert told.startswith(f"{num} of 1 runs and {hours:.2f} of 1 GPU hours")


async def test_the_newest_event_breaks_the_silence(store: SqlStore) -> None:
    """When the newest one came in, of whatever kind."""
    await store.start_scenario("airline", "chat", now_ms=1)
    assert (
        await store.trigger_context("airline", "chat", now_ms=9, needs=Needs())
    ).last_event_at is None
    for ms in (5_000, 7_000):
        await store.append([incoming(action(), received_ms=ms)])
    facts = await store.trigger_context("airline", "chat", now_ms=9_000, needs=Needs())
    assert facts.last_event_at == at(7_000)


@pytest.mark.feature("SE-095")
@pytest.mark.parametrize("seed", range(3))
async def test_recent_outcomes_are_those_of_a_slow_count(store: SqlStore, seed: int) -> None:
    """New ones, newest first, then changed ones, newest first; the rates equal a count by hand."""
    chance = random.Random(seed)
    outcomes: tuple[Outcome, ...] = (Success(), Failure("a"), Unknown())
    await store.start_scenario("airline", "chat", now_ms=1)
    now: list[Outcome] = []
    seen: list[Outcome] = []
    ids: list[str] = []
    for step in range(40):
        deed = chance.random()
        if deed < 0.06:
            ended = run(f"r{step}", started_at_ms=step, state="done", ended_at_ms=step)
            await store.add_run(ended)
            await store.end_run(ended, trained_count=len(now))
            seen = list(now)
        elif deed < 0.5 or not ids:
            now.append(chance.choice(outcomes))
            made = episode(now[-1], ms=step, task_id=f"t{step}")
            await store.add_episode(made, [])
            ids.append(made.id)
        else:
            which = chance.randrange(len(ids))
            now[which] = chance.choice(outcomes)
            await store.set_outcome(ids[which], now[which])
        window = chance.randrange(1, 12)
        facts = await store.trigger_context(
            "airline", "chat", now_ms=9_000, needs=Needs(outcomes=window)
        )
        new = [outcome for outcome in now[len(seen) :] if is_known(outcome)]
        changed = [n for n, s in zip(now, seen, strict=False) if n != s and is_known(n)]
        expected = tuple([*new[::-1], *changed[::-1]][:window])
        assert facts.recent == expected
        known = [outcome for outcome in now if is_known(outcome)]
        metrics = facts.metrics
        assert (metrics is None) == (not expected)
        if metrics is not None:
            assert metrics.recent_sample_size == len(expected)
            assert metrics.recent_success_rate == sum(map(is_success, expected)) / len(expected)
            assert metrics.overall_success_rate == sum(map(is_success, known)) / len(known)


# ---------------------------------------------------------------- what they cost


async def _heard(store: SqlStore) -> list[Query]:
    """Every query that one look runs."""
    await store.start_scenario("airline", "chat", now_ms=NOW_MS)
    with listening(store) as heard:
        await judge(store, RULE)
    queries = [query for query in heard if query.text.lstrip().startswith(("SELECT", "WITH"))]
    assert len(queries) >= 7
    return queries


async def test_judging_reads_no_table_from_end_to_end(store: SqlStore) -> None:
    """The plan of every query that it runs searches an index."""
    queries = await _heard(store)
    async with store._read() as db:
        is_server = db.dialect.name == "postgresql"
        if is_server:  # so small a table is read whole, unless that is forbidden
            await db.execute(text("SET LOCAL enable_seqscan = off"))
        for query in queries:
            explain = "EXPLAIN " if is_server else "EXPLAIN QUERY PLAN "
            plan = await db.exec_driver_sql(explain + query.text, query.values)
            lines = [str(row[0] if is_server else row[3]) for row in plan]
            for line in lines:
                scanned = line.replace("Seq Scan on", "SCAN").partition("SCAN ")[2].split(" ")[0]
                assert scanned not in metadata.tables, (query.text, lines)


@pytest.mark.parametrize("waiting", [5, 3_000])
async def test_judging_takes_as_many_steps_among_many_episodes(
    tmp_path: Path, waiting: int
) -> None:
    """SQLite's own count of what it did, for 6,000 episodes and for 60,000: a plan may search, and yet walk far."""
    steps = {}
    for num in (6_000, 60_000):
        path = tmp_path / f"{num}.db"
        async with open_store(f"sqlite:///{path}"):
            pass
        fill(path, num, waiting=waiting)
        async with open_store(f"sqlite:///{path}") as store:
            queries = await _heard(store)
        with contextlib.closing(sqlite3.connect(path)) as db:
            took: list[None] = []
            db.set_progress_handler(partial(took.append, None), 1)
            for query in queries:
                db.execute(query.text, query.values).fetchall()
        steps[num] = len(took)
    assert steps[60_000] < 1.02 * steps[6_000], steps


# ---------------------------------------------------------------- stores of before


async def test_what_older_stores_know_of_runs_and_changes_is_counted(lasting_url: str) -> None:
    """A store of version 5 with runs and a changed episode has the counters afterwards."""
    ended = run("r1", started_at_ms=HOUR_MS, state="failed", ended_at_ms=2 * HOUR_MS)
    going_on = run("r2", started_at_ms=3 * HOUR_MS)
    columns = (
        "id, learn_model, scenario, number, source_group, outcome_type, score, outcome, num_records"
    )
    statements = [
        *[statement for step in STEPS[:5] for statement in step],
        *[
            "INSERT INTO runs (id, scenario, started_at_ms, body) VALUES "
            f"('{each.id}', 'airline', {each.started_at_ms}, '{msgspec.json.encode(each).decode()}')"
            for each in (ended, going_on)
        ],
        f"""INSERT INTO episodes ({columns}, created_at_ms, tags) VALUES
            ('e1', 'chat', 'airline', 7, 1, 'success', 1.0, '{{"type":"success"}}', 0, 1, '{{}}')""",
        "INSERT INTO changed_episodes VALUES ('airline', 'chat', 'e1', 'unknown', 0.0, NULL, 1)",
        """INSERT INTO learning_states (scenario, learn_model, first_started_at_ms, last_train_at_ms,
            last_train_count, episode_count) VALUES ('airline', 'chat', 1, 7, 7, 7)""",
        "CREATE TABLE schema_version (version INTEGER NOT NULL)",
        "INSERT INTO schema_version VALUES (5)",
    ]
    await _run_statements(lasting_url, statements)
    async with open_store(lasting_url) as store:
        needs = Needs(outcomes=5, period=at(9 * HOUR_MS) - at(0))
        facts = await store.trigger_context("airline", "chat", now_ms=4 * HOUR_MS, needs=needs)
    assert facts.runs == (RunTime(at(3 * HOUR_MS), None), RunTime(at(HOUR_MS), at(2 * HOUR_MS)))
    assert (facts.changed_count, facts.last_run_at, facts.recent) == (1, at(7), (Success(),))


async def _run_statements(url: str, statements: list[str]) -> None:
    if url.startswith("sqlite:///"):
        db = sqlite3.connect(url.removeprefix("sqlite:///"))
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.close()
        return
    server = parse_server(url)
    connection = await server.connect()
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {server.search_path}")
    for statement in statements:
        await connection.execute(translated(statement))
    await connection.close()
