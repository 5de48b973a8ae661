"""A store with as many episodes as one likes, for what judging costs, and the queries that judging runs."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import event

from honed.stores import SqlStore
from honed.triggers import TrainTrigger, parse

RULE: Final = parse(
    'count(100) | every("1h") & quality(below=0.6, window=50) & quiet("10m")'
    ' & window("01:00-06:00", tz="Europe/Berlin") & cron("0 3 * * *") & cooldown("2h")'
    ' & budget(runs=4, gpu_hours=2, per="1d") & failures(below=3) & ~drift()'
)
"""Every condition that asks the store for something."""
NOW_MS: Final = 1_790_000_000_000
_RUNS: Final = 1_000
_HOUR_MS: Final = 3_600_000

_FILL: Final = (
    # A fifth nobody has judged; of those that do not wait to be learned from one in a hundred has changed.
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :num)
    INSERT INTO episodes (id, learn_model, scenario, number, source_group, task_id, group_id, worker_id,
      outcome_type, score, outcome, num_records, created_at_ms, tags)
    SELECT printf('ep-%012d', i), 'chat', 'airline', i, i, printf('task-%012d', i), printf('group-%012d', i / 4),
      i % 64, CASE i % 10 WHEN 0 THEN 'unknown' WHEN 1 THEN 'unknown' WHEN 2 THEN 'failure' WHEN 3 THEN 'failure'
      ELSE 'success' END, 1.0, CASE i % 10 WHEN 0 THEN '{"type":"unknown"}' WHEN 1 THEN '{"type":"unknown"}'
      WHEN 2 THEN '{"type":"failure"}' WHEN 3 THEN '{"type":"failure"}' ELSE '{"type":"success","score":1.0}' END,
      1, :now_ms - (:num - i), '{}' FROM n
    """,
    """
    INSERT INTO records (id, event_id, digest, type, task_id, received_ms, body)
    SELECT number, id, x'00', 'action', task_id, created_at_ms, x'7b7d' FROM episodes ORDER BY number
    """,
    """
    INSERT INTO changed_episodes (scenario, learn_model, episode_id, outcome_type, score, counted, number)
    SELECT scenario, learn_model, id, 'unknown', 0.0, 1, number FROM episodes
    WHERE number <= :num - :waiting AND number % 100 = 2
    """,
    """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :runs)
    INSERT INTO runs (id, scenario, learn_model, state, started_at_ms, ended_at_ms, body)
    SELECT printf('run-%06d', i), 'airline', 'chat', 'done', :now_ms - i * :hour_ms,
      :now_ms - i * :hour_ms + 60000, '{}' FROM n
    """,
    """
    INSERT INTO learning_states (scenario, learn_model, first_started_at_ms, episode_count, known_count, success_count,
      last_train_at_ms, last_train_count, changed_count, last_run_at_ms)
    SELECT 'airline', 'chat', 1, :num, 8 * :num / 10, 6 * :num / 10, :now_ms - 1000, :num - :waiting,
      (SELECT count(*) FROM changed_episodes), :now_ms - 1000
    """,
)


def fill(path: Path, num: int, *, waiting: int) -> None:
    """Put episodes, their records and 1,000 runs into the new store of a file; `waiting` are the newest of them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -200000")
        for statement in _FILL:
            values = {"num": num, "waiting": waiting, "now_ms": NOW_MS}
            db.execute(statement, values | {"runs": _RUNS, "hour_ms": _HOUR_MS})
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class Query(NamedTuple):
    """A statement as the driver gets it."""

    text: str
    values: Any


@contextlib.contextmanager
def listening(store: SqlStore) -> Iterator[list[Query]]:
    """Every query that the store sends while the body runs."""
    transactions: Any = store._read.__self__  # type: ignore[attr-defined]
    engines = [transactions._engine.sync_engine, transactions._writing_engine.sync_engine]
    heard: list[Query] = []

    def hear(db: Any, cursor: Any, text: str, values: Any, context: Any, many: bool) -> None:
        heard.append(Query(text, values))

    for engine in engines:
        event.listen(engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", hear)


async def judge(store: SqlStore, rule: TrainTrigger = RULE) -> bool:
    """What the loop does when it looks."""
    await store.start_scenario("airline", "chat", now_ms=NOW_MS)
    facts = await store.trigger_context("airline", "chat", now_ms=NOW_MS, needs=rule.needs)
    return rule.judge(facts).fires
