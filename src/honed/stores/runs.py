"""Runs, models, what was applied, what a scenario remembers.

Each function runs inside its caller's transaction.
"""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.domain.outcome import Outcome
from honed.domain.run import Applied, LearningState, Run
from honed.domain.trained_model import GateResult, TrainedModel
from honed.domain.verdict import Seen
from honed.errors import NotFoundError, StoreError, ValidationError
from honed.ports import ModelFilter
from honed.stores import changes, reads
from honed.stores import tables as t
from honed.stores.canaries import is_tried
from honed.stores.dialects import upsert
from honed.triggers.context import Needs, RunTime, TriggerContext

_REMEMBERED = frozenset(LearningState.__struct_fields__)
_HAS_TRAINED: Final = text("state <> 'skipped'")
"""The text of the partial index."""
_decode_run = msgspec.json.Decoder(Run).decode
_decode_model = msgspec.json.Decoder(TrainedModel).decode


async def start_scenario(
    db: AsyncConnection, scenario: str, learn_model: str, *, now_ms: int
) -> LearningState:
    """Write down the first start, if this is it; what is remembered."""
    s = t.learning_states.c
    query = upsert(db, t.learning_states).values(
        scenario=scenario, learn_model=learn_model, first_started_at_ms=now_ms
    )
    # Episodes may be imported before the first start; then the row exists without one.
    changed = {"first_started_at_ms": now_ms}
    await db.execute(
        query.on_conflict_do_update(
            index_elements=[s.scenario, s.learn_model],
            set_=changed,
            where=s.first_started_at_ms.is_(None),
        )
    )
    state = await learning_state(db, scenario, learn_model)
    assert state is not None
    return state


async def learning_state(
    db: AsyncConnection, scenario: str, learn_model: str
) -> LearningState | None:
    """What is remembered; None before the first start."""
    s = t.learning_states.c
    query = select(t.learning_states).where(s.scenario == scenario, s.learn_model == learn_model)
    row = (await db.execute(query)).first()
    if row is None or row.first_started_at_ms is None:
        return None
    remembered = {column: value for column, value in row._mapping.items() if column in _REMEMBERED}
    return LearningState(**remembered)


async def trigger_context(
    db: AsyncConnection, scenario: str, learn_model: str, *, now_ms: int, needs: Needs
) -> TriggerContext | None:
    """The facts for the trigger, from counters and what it needs beside them; None before the first start."""
    state = await learning_state(db, scenario, learn_model)
    if state is None:
        return None
    recent: tuple[Outcome, ...] = ()
    if needs.outcomes:
        recent = await reads.recent_outcomes(
            db,
            scenario,
            learn_model,
            after_number=state.last_train_count,
            window=needs.outcomes,
        )
    runs: tuple[RunTime, ...] = ()
    if needs.period:
        since_ms = now_ms - needs.period // timedelta(milliseconds=1)
        runs = await run_times(db, scenario, learn_model, since_ms=since_ms)
    tens: tuple[int, ...] = ()
    if needs.tens:
        tens = await reads.tens(db, state, scenario, learn_model, limit=needs.tens)
    known = state.known_count
    return TriggerContext(
        now=_utc(now_ms),
        first_started_at=_utc(state.first_started_at_ms),
        last_event_at=_maybe_utc(await reads.last_event_ms(db)),
        last_train_at=_maybe_utc(state.last_train_at_ms),
        last_train_count=state.last_train_count,
        episode_count=state.episode_count,
        changed_count=state.changed_count,
        recent=recent,
        overall_success_rate=state.success_count / known if known else 0.0,
        last_run_at=_maybe_utc(state.last_run_at_ms),
        failures=state.failures,
        runs=runs,
        tens=tens,
    )


async def run_times(
    db: AsyncConnection, scenario: str, learn_model: str, *, since_ms: int
) -> tuple[RunTime, ...]:
    """When the runs that trained began and ended, newest first: those that began since, and the one before them."""
    r = t.runs.c
    query = select(r.started_at_ms, r.ended_at_ms)
    query = query.where(r.scenario == scenario, r.learn_model == learn_model, _HAS_TRAINED)
    query = query.order_by(r.started_at_ms.desc())
    since = (await db.execute(query.where(r.started_at_ms > since_ms))).all()
    # One run at a time: of those that began earlier, only the last may reach into the period.
    before = (await db.execute(query.where(r.started_at_ms <= since_ms).limit(1))).all()
    return tuple(
        RunTime(_utc(row.started_at_ms), _maybe_utc(row.ended_at_ms)) for row in [*since, *before]
    )


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _maybe_utc(ms: int | None) -> datetime | None:
    return None if ms is None else _utc(ms)


async def add_run(db: AsyncConnection, run: Run) -> None:
    """Write down a run that starts."""
    await db.execute(
        insert(t.runs).values(
            id=run.id, scenario=run.scenario, started_at_ms=run.started_at_ms, **_columns(run)
        )
    )


def _columns(run: Run) -> dict[str, str | int | None]:
    return {
        "learn_model": run.learn_model,
        "state": run.state,
        "ended_at_ms": run.ended_at_ms,
        "body": _json(run),
    }


async def end_run(
    db: AsyncConnection,
    run: Run,
    *,
    trained_count: int | None = None,
    seen: Seen | None = None,
    backoff_s: float | None = None,
) -> None:
    """Write down how a run ended; see `ports.Store.end_run`."""
    changed = await db.execute(update(t.runs).where(t.runs.c.id == run.id).values(**_columns(run)))
    if not changed.rowcount:
        raise NotFoundError(f"no run has the id {run.id}")
    if run.ended_at_ms is None:
        raise StoreError(f"run {run.id} ended without an end: ended_at_ms is None")
    await _count_run(db, run)
    if backoff_s is not None:
        until = run.ended_at_ms + round(backoff_s * 1000) if backoff_s > 0 else None
        await _remember(db, run, backoff_s=backoff_s, backoff_until_ms=until)
    if trained_count is not None:
        await _remember(db, run, last_train_at_ms=run.ended_at_ms, last_train_count=trained_count)
        await changes.settle(db, run, trained_count=trained_count, seen=seen)


async def _count_run(db: AsyncConnection, run: Run) -> None:
    """Move what triggers ask about runs that have trained."""
    if run.state == "skipped":
        return
    values: dict[str, Any] = {"last_run_at_ms": run.ended_at_ms}
    if run.state == "done":
        values["failures"] = 0
    elif run.state == "failed":
        values["failures"] = t.learning_states.c.failures + 1
    await _remember(db, run, **values)


async def _remember(db: AsyncConnection, run: Run, **values: Any) -> None:
    s = t.learning_states.c
    mine = (s.scenario == run.scenario, s.learn_model == run.learn_model)
    await db.execute(update(t.learning_states).where(*mine).values(**values))


async def list_runs(db: AsyncConnection, scenario: str, *, limit: int) -> list[Run]:
    """Runs, newest first."""
    r = t.runs.c
    query = select(r.body).where(r.scenario == scenario)
    query = query.order_by(r.started_at_ms.desc(), r.id.desc()).limit(limit)
    return [_decode_run(body) for body in (await db.execute(query)).scalars()]


async def next_model_number(db: AsyncConnection, scenario: str) -> int:
    """A number that was not given before."""
    query = upsert(db, t.scenarios).values(scenario=scenario, model_number=1)
    query = query.on_conflict_do_update(
        index_elements=["scenario"], set_={"model_number": t.scenarios.c.model_number + 1}
    )
    return int((await db.execute(query.returning(t.scenarios.c.model_number))).scalar_one())


async def add_model(db: AsyncConnection, model: TrainedModel) -> None:
    """Register a trained model."""
    await db.execute(
        insert(t.models).values(
            id=model.id,
            scenario=model.scenario,
            created_at_ms=model.created_at_ms,
            body=_json(model),
        )
    )


async def set_gate(db: AsyncConnection, model_id: str, gate: GateResult) -> None:
    """Keep the verdict on a model; a newer one takes its place."""
    model = msgspec.structs.replace(await get_model(db, model_id), gate=gate)
    await db.execute(update(t.models).where(t.models.c.id == model_id).values(body=_json(model)))


async def get_model(db: AsyncConnection, model_id: str) -> TrainedModel:
    """The model; raises NotFoundError."""
    body = await db.scalar(select(t.models.c.body).where(t.models.c.id == model_id))
    if body is None:
        raise NotFoundError(
            f"no adapter has the id {model_id}", advice="`honed adapters` lists them"
        )
    return _decode_model(body)


async def list_models(db: AsyncConnection, scenario: str, *, limit: int) -> list[TrainedModel]:
    """Models, newest first."""
    m = t.models.c
    query = select(m.body).where(m.scenario == scenario)
    query = query.order_by(m.created_at_ms.desc(), m.id.desc()).limit(limit)
    return [_decode_model(body) for body in (await db.execute(query)).scalars()]


async def query_models(db: AsyncConnection, filter: ModelFilter) -> list[TrainedModel]:
    """Models that fit; those of a scenario are few, so that their bodies are looked into."""
    m = t.models.c
    query = select(m.body)
    if filter.scenario is not None:
        query = query.where(m.scenario == filter.scenario)
    if filter.since_ms is not None:
        query = query.where(m.created_at_ms >= filter.since_ms)
    if filter.until_ms is not None:
        query = query.where(m.created_at_ms <= filter.until_ms)
    order = (m.created_at_ms, m.id)
    query = query.order_by(*(column.desc() for column in order) if filter.newest_first else order)
    wanted = {
        name: value
        for name in ("learn_model", "base_model", "method")
        if (value := getattr(filter, name)) is not None
    }
    models = map(_decode_model, (await db.execute(query)).scalars())
    found = (m for m in models if all(getattr(m, name) == wanted[name] for name in wanted))
    stop = None if filter.limit is None else filter.offset + filter.limit
    return list(itertools.islice(found, filter.offset, stop))


async def delete_model(db: AsyncConnection, model_id: str) -> TrainedModel | None:
    """Take a model out; None when there is none. Raises ValidationError when a rollback may need it."""
    m, a = t.models.c, t.applied.c
    body = await db.scalar(select(m.body).where(m.id == model_id))
    if body is None:
        return None
    if await db.scalar(select(a.id).where(a.model_id == model_id).limit(1)) is not None:
        raise ValidationError(
            f"{model_id} serves, or a rollback may go back to it: it cannot be deleted",
            path="$.id",
            advice="put others into service first; apply.max_history says how many are remembered",
        )
    if await is_tried(db, model_id):
        raise ValidationError(
            f"{model_id} is tried on a share of the tasks: it cannot be deleted",
            path="$.id",
            advice="`honed withdraw` ends that",
        )
    await db.execute(delete(t.models).where(m.id == model_id))
    return _decode_model(body)


async def history(db: AsyncConnection, scenario: str) -> list[Applied]:
    """What was in service, newest last."""
    a = t.applied.c
    query = select(a.model_id, a.applied_at_ms).where(a.scenario == scenario).order_by(a.id)
    return [
        Applied(model_id=row.model_id, applied_at_ms=row.applied_at_ms)
        for row in await db.execute(query)
    ]


async def push_applied(
    db: AsyncConnection,
    scenario: str,
    model_id: str,
    *,
    expected: str | None,
    max_history: int,
    now_ms: int,
) -> bool:
    """Compare-and-swap of what is in service; the oldest entries beyond `max_history` fall out."""
    ids = await _applied_ids(db, scenario)
    current = ids[-1][1] if ids else None
    if current != expected:
        return False
    await db.execute(
        insert(t.applied).values(scenario=scenario, model_id=model_id, applied_at_ms=now_ms)
    )
    fallen = [entry for entry, _ in ids[: max(0, len(ids) + 1 - max_history)]]
    if fallen:
        await db.execute(delete(t.applied).where(t.applied.c.id.in_(fallen)))
    return True


async def pop_applied(db: AsyncConnection, scenario: str, *, expected: str) -> bool:
    """Take the current entry out, if it is still `expected`."""
    ids = await _applied_ids(db, scenario)
    if not ids or ids[-1][1] != expected:
        return False
    await db.execute(delete(t.applied).where(t.applied.c.id == ids[-1][0]))
    return True


async def _applied_ids(db: AsyncConnection, scenario: str) -> list[tuple[int, str]]:
    a = t.applied.c
    query = select(a.id, a.model_id).where(a.scenario == scenario).order_by(a.id)
    return [(row.id, row.model_id) for row in await db.execute(query)]


def _json(value: Run | TrainedModel) -> str:
    return msgspec.json.encode(value).decode()
