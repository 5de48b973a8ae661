"""What is old goes, oldest first; what triggers and lineage need stays."""

from pathlib import Path
from secrets import token_hex

import msgspec
import pytest

from honed.adapter_files import ADAPTER_FILES, MANIFEST_FILE
from honed.domain.run import Run
from honed.domain.trained_model import Decision, GateResult
from honed.keeping.cleanup import Cleanup, KeepFor
from honed.ports import EpisodeFilter
from honed.stores import SqlStore
from honed.triggers import Needs
from tests.feed_parts import action, call, close_all, incoming, success
from tests.unit.keeping.test_forgetting import model

pytestmark = pytest.mark.anyio
NOW = 1_000_000


def cleanup(store: SqlStore, folder: Path, keep_for: KeepFor) -> Cleanup:
    return Cleanup(
        store,
        store.keeping,
        scenario="airline",
        keep_for=keep_for,
        runs_dir=folder / "runs",
        adapters_dir=folder / "adapters",
    )


async def attempt(store: SqlStore, task: str, at_ms: int, *, labelled: bool = True) -> str:
    events = [call(task_id=task), action(task_id=task)]
    events += [success(task_id=task)] if labelled else []
    await store.append([incoming(event, received_ms=at_ms) for event in events])
    [made] = await close_all(store, now_ms=NOW)
    return made.id


async def tasks(store: SqlStore) -> set[str | None]:
    return {row.task_id for row in await store.list_episodes(EpisodeFilter())}


async def train_on_all(store: SqlStore) -> None:
    state = await store.start_scenario("airline", "chat", now_ms=1)
    run = Run(
        id="run-1",
        scenario="airline",
        learn_model="chat",
        state="running",
        started_at_ms=1,
        reason="test",
    )
    await store.add_run(run)
    done = msgspec.structs.replace(run, state="done", ended_at_ms=2)
    await store.end_run(done, trained_count=state.episode_count)


async def test_what_no_training_has_seen_stays(store: SqlStore, tmp_path: Path) -> None:
    """However old it is, unless `unseen` says so."""
    await attempt(store, "seen-old", 10)
    await attempt(store, "seen-new", NOW - 10)
    await train_on_all(store)
    await attempt(store, "unseen-old", 10)
    await attempt(store, "unlabelled-old", 10, labelled=False)
    keep = KeepFor(seen_ms=1_000)
    looked = await cleanup(store, tmp_path, keep).clean(now_ms=NOW, dry=True)
    assert (looked.episodes, looked.records) == (1, 3)
    assert len(await tasks(store)) == 4
    done = await cleanup(store, tmp_path, keep).clean(now_ms=NOW)
    assert (done.episodes, done.records) == (1, 3)
    assert await tasks(store) == {"seen-new", "unseen-old", "unlabelled-old"}
    await cleanup(store, tmp_path, KeepFor(unseen_ms=1_000, unlabelled_ms=1_000)).clean(now_ms=NOW)
    assert await tasks(store) == {"seen-new"}


async def test_triggers_see_no_difference(store: SqlStore, tmp_path: Path) -> None:
    """Totals and counters only grow: clearing away neither fires a rule nor keeps one from firing."""
    for n in range(5):
        await attempt(store, f"t{n}", 10)
    await train_on_all(store)
    await attempt(store, "new", 10)

    async def facts() -> object:
        context = await store.trigger_context(
            "airline", "chat", now_ms=NOW, needs=Needs(outcomes=50)
        )
        return context, await store.stats()

    before = await facts()
    done = await cleanup(store, tmp_path, KeepFor(seen_ms=1)).clean(now_ms=NOW)
    assert done.episodes == 5
    assert await facts() == before
    await attempt(store, "after", 10)
    context = await store.trigger_context("airline", "chat", now_ms=NOW, needs=Needs(outcomes=50))
    assert context.count == 2


async def test_loose_records_go_by_their_own_age(store: SqlStore, tmp_path: Path) -> None:
    """Evaluations and what came too late; records of attempts stay, open ones as well."""
    await attempt(store, "closed", 10)
    await store.append([incoming(action(task_id="open"), received_ms=10)])
    late = action(task_id="closed")
    probe = call(purpose="probe")
    await store.append([incoming(event, received_ms=10) for event in (late, probe)])
    await store.append([incoming(call(purpose="probe"), received_ms=NOW)])
    await store.append([incoming(success(receipt_id="not here yet"), received_ms=10)])
    done = await cleanup(store, tmp_path, KeepFor(loose_ms=1_000)).clean(now_ms=NOW)
    assert (done.records, done.episodes) == (2, 0)
    assert await tasks(store) == {"closed"}
    assert len(await close_all(store)) == 1


async def test_rejected_adapters_lose_their_weights_only(store: SqlStore, tmp_path: Path) -> None:
    """Manifests stay, and so does what is in service, was once, or begot another adapter."""
    decisions: list[Decision | None] = ["fail", "fail", "pass", None, "fail", "fail"]
    for number, decision in enumerate(decisions, 1):
        made = msgspec.structs.replace(model(number, ()), gate=gate(decision) if decision else None)
        if number == 4:
            made = msgspec.structs.replace(made, parent_id="airline@5")
        if number == 6:
            made = msgspec.structs.replace(made, created_at_ms=NOW)
        await store.add_model(made)
        folder = tmp_path / "adapters" / made.id
        folder.mkdir(parents=True)
        for name in (*ADAPTER_FILES, MANIFEST_FILE):
            (folder / name).write_text("x" * 100)
    await store.push_applied("airline", "airline@2", expected=None, max_history=5, now_ms=1)
    done = await cleanup(store, tmp_path, KeepFor(rejected_ms=1_000)).clean(now_ms=NOW)
    assert (done.adapters, done.freed_bytes) == (("airline@1",), 200)
    left = {path.name for path in (tmp_path / "adapters" / "airline@1").iterdir()}
    assert left == {"adapter_config.json", MANIFEST_FILE}
    assert all(len(list((tmp_path / f"adapters/airline@{n}").iterdir())) == 4 for n in range(2, 7))
    assert (
        await cleanup(store, tmp_path, KeepFor(rejected_ms=1_000)).clean(now_ms=NOW)
    ).adapters == ()


async def test_folders_of_old_runs_go(store: SqlStore, tmp_path: Path) -> None:
    """The run itself stays in the list; one that has not ended is left alone."""
    await train_on_all(store)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    (tmp_path / "runs" / "run-1" / "chat.jsonl").write_text("{}")
    (tmp_path / "runs" / "run-2").mkdir()
    done = await cleanup(store, tmp_path, KeepFor(runs_ms=1_000)).clean(now_ms=NOW)
    assert done.runs == ("run-1",)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run-2"]
    assert len(await store.list_runs("airline")) == 1


async def test_a_store_is_smaller_after_cleaning_and_compacting(
    store: SqlStore, url: str, tmp_path: Path
) -> None:
    """The gaps go back to the disk: of SQLite with the cleaning."""
    for n in range(40):
        event = action(task_id=f"t{n}", target=token_hex(10_000))
        await store.append([incoming(event, received_ms=10)])
        await close_all(store, now_ms=NOW)
    await store.keeping.scrub()
    path = tmp_path / "honed.db"
    size = path.stat().st_size if path.exists() else None
    keep = KeepFor(unseen_ms=1, unlabelled_ms=1)
    done = await cleanup(store, tmp_path, keep).clean(now_ms=NOW)
    assert (done.given_back_bytes > 0) == (size is not None)
    assert done.given_back_bytes + await store.keeping.compact() > 500_000
    if size is not None:
        assert path.stat().st_size < size - 500_000


def gate(decision: Decision) -> GateResult:
    return GateResult(
        decision=decision,
        proof="outcome",
        incumbent_id=None,
        reason="",
        num_successes=0,
        num_failures=0,
    )
