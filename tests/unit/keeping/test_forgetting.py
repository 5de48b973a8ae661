"""Forgetting takes out all of somebody's data, and leaves no byte of it in the database's files."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.domain.trained_model import TrainedModel
from honed.keeping.forgetting import Forgetting
from honed.ports import EpisodeFilter, Whose
from honed.stores import SqlStore
from tests.feed_parts import action, call, close_all, failure, incoming, line, success
from tests.postgres import everything

pytestmark = pytest.mark.anyio
MARK = "Xylophon"


def marked(task: str) -> list[dict[str, Any]]:
    """Events of one attempt with the mark in every field that may hold text."""
    where = {
        "task_id": task,
        "group_id": f"g-{MARK}",
        "session_id": f"s-{MARK}",
        "agent": f"agent-{MARK}",
        "user": f"user-{MARK}",
        "tags": {f"k-{MARK}": f"v-{MARK}"},
    }
    events = [
        call(
            **where,
            receipt_id=f"r-{MARK}",
            messages=[{"role": "user", "content": f"{MARK} " * 4_000}],
            response_message={"role": "assistant", "content": MARK},
        ),
        action(**(where | {"name": f"do-{MARK}"}), target=MARK),
        failure(f"because {MARK}", **where, source=f"judge-{MARK}"),
    ]
    for n, event in enumerate(events):
        event["event_id"] = f"{MARK}-{n}"
    return events


async def raw(url: str, folder: Path) -> bytes:
    """All that the database's files hold; of a server, all that its tables do."""
    if url.startswith("postgresql"):
        return await everything(url)
    return b"".join(path.read_bytes() for path in folder.glob("honed.db*"))


async def fill(store: SqlStore, count: int = 200) -> None:
    """Other people's attempts, so that pages split and move."""
    for start in range(0, count, 20):
        events = [
            event
            for n in range(start, start + 20)
            for event in (
                call(
                    task_id=f"t{n}", agent="other", receipt_id=f"r{n}", model="m" * (n * 37 % 900)
                ),
                action(task_id=f"t{n}", agent="other"),
                success(task_id=f"t{n}"),
            )
        ]
        await store.append([incoming(event) for event in events])
    while await close_all(store):
        pass


@pytest.mark.parametrize("kind", ["episode", "task", "group", "session", "agent", "user"])
async def test_no_byte_of_it_is_left(store: SqlStore, url: str, tmp_path: Path, kind: str) -> None:
    """Whoever is named: the mark is in no file of the database, and the others' data are whole."""
    await fill(store, 100)
    await store.append([incoming(event) for event in marked(f"t-{MARK}")])
    [made] = await close_all(store)
    late = action(task_id=f"t-{MARK}", name=f"late-{MARK}")
    verdict = success(receipt_id=f"r-{MARK}", source=f"late-{MARK}")
    waiting = success(receipt_id=f"unknown-{MARK}", user=f"user-{MARK}")
    await store.append([incoming(event) for event in (late, verdict)])
    if kind == "user":
        await store.append([incoming(waiting)])
    await fill(store, 60)
    assert MARK.encode() in await raw(url, tmp_path)
    names = {
        "episode": made.id,
        "task": f"t-{MARK}",
        "group": f"g-{MARK}",
        "session": f"s-{MARK}",
        "agent": f"agent-{MARK}",
        "user": f"user-{MARK}",
    }
    before = await store.stats()
    forgetting = Forgetting(store.keeping, runs_dir=tmp_path / "runs")
    whose = Whose(kind, names[kind])  # type: ignore[arg-type]
    seen = await forgetting.look(whose)
    assert MARK.encode() in await raw(url, tmp_path)
    done = await forgetting.forget(whose)
    assert (seen.records, seen.episodes) == (done.records, done.episodes)
    assert (done.records, done.episodes, done.scrubbed) == (5 + (kind == "user"), 1, True)
    assert MARK.encode() not in await raw(url, tmp_path)
    assert await store.count_episodes(EpisodeFilter(task_id="t7")) == 1
    assert await store.distinct_actions("airline") == ["look"]
    after = await store.stats()
    assert (after.num_records, after.num_episodes) == (before.num_records, before.num_episodes)
    async for episode in store.query_episodes(EpisodeFilter()):
        assert episode.records
    if url.startswith("sqlite"):
        db = sqlite3.connect(tmp_path / "honed.db")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


async def test_an_open_attempt_is_forgotten_too(store: SqlStore, tmp_path: Path) -> None:
    """Its events are gone before they become an episode, and none is made of them."""
    await store.append([incoming(event) for event in marked("t1")[:2]])
    done = await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("task", "t1"))
    assert (done.records, done.attempts, done.episodes) == (2, 1, 0)
    assert await close_all(store) == []
    assert (await store.stats()).open_groups == 0


async def test_a_forgotten_event_that_is_sent_again_stays_forgotten(
    store: SqlStore, tmp_path: Path
) -> None:
    """It is a repeat, stored once and then forgotten; another event of the same task is new."""
    events = [incoming(event) for event in marked("t1")]
    await store.append(events)
    await close_all(store)
    await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("task", "t1"))
    new = incoming(action(task_id="t1"))
    assert await store.append([events[0], new, *events[1:]]) == [
        "duplicate",
        "stored",
        "duplicate",
        "duplicate",
    ]
    assert len((await store.keeping.find(Whose("task", "t1"))).record_ids) == 1


async def test_a_forgotten_episode_is_not_imported_again(
    store: SqlStore, url: str, tmp_path: Path
) -> None:
    """An export that was made before counts as known."""
    events = [incoming(event) for event in marked("t1")]
    await store.append(events)
    [made] = await close_all(store)
    await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("task", "t1"))
    assert not await store.add_episode(made, events)
    assert MARK.encode() not in await raw(url, tmp_path)
    fresh = msgspec.structs.replace(made, id="0000000000001-00000000", task_id="t2")
    assert await store.add_episode(fresh, [incoming(action(task_id="t2"))])


async def test_ids_are_not_given_twice(store: SqlStore, tmp_path: Path) -> None:
    """What was read before a forgetting cannot be mistaken for what came after it."""
    await store.append([incoming(action(task_id="t1"))])
    [group] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    [record] = (await store.group_records([group.id]))[group.id]
    await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("task", "t1"))
    await store.append([incoming(action(task_id="t2"))])
    [other] = await store.open_groups(settled_before_ms=9_999, idle_before_ms=9_999, now_ms=9_999)
    [later] = (await store.group_records([other.id]))[other.id]
    assert other.id != group.id
    assert record.record_id is not None
    assert later.record_id is not None
    assert later.record_id > record.record_id
    assert await store.has_records()


async def test_the_adapters_that_learned_from_it_are_named(store: SqlStore, tmp_path: Path) -> None:
    """Also those that are not in service; nothing is unlearned."""
    await store.append([incoming(event) for event in marked("t1")])
    [made] = await close_all(store)
    for number, ids in enumerate([(made.id, "x"), ("x",), (made.id,)], 1):
        await store.add_model(model(number, ids))
    done = await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("user", f"user-{MARK}"))
    assert done.adapters == {"airline@1": 1, "airline@3": 1}


async def test_the_rows_that_trainings_read_go_as_well(store: SqlStore, tmp_path: Path) -> None:
    """Only the lines of the episode; files that do not fit together go whole, and so does the log."""
    await store.append([incoming(event) for event in marked("t1")])
    [made] = await close_all(store)
    fits, broken, other = (tmp_path / "runs" / name for name in ("fits", "broken", "other"))
    for folder, rows in ((fits, 3), (broken, 2), (other, 3)):
        folder.mkdir(parents=True)
        ids = ["a", made.id if folder != other else "c", "b"]
        metadata = [line({"episode_id": id}) for id in ids]
        data = [line({"messages": [MARK if id == made.id else id]}) for id in ids[:rows]]
        (folder / "chat.meta.jsonl").write_bytes(b"".join(row + b"\n" for row in metadata))
        (folder / "chat.jsonl").write_bytes(b"".join(row + b"\n" for row in data))
        (folder / "worker.log").write_text(MARK if folder != other else "fine")
    forgetting = Forgetting(store.keeping, runs_dir=tmp_path / "runs")
    assert (await forgetting.look(Whose("task", "t1"))).runs == ("broken", "fits")
    assert (await forgetting.forget(Whose("task", "t1"))).runs == ("broken", "fits")
    assert [
        msgspec.json.decode(row) for row in (fits / "chat.jsonl").read_bytes().splitlines()
    ] == [
        {"messages": ["a"]},
        {"messages": ["b"]},
    ]
    assert len((fits / "chat.meta.jsonl").read_bytes().splitlines()) == 2
    assert list(broken.iterdir()) == []
    assert len(list(other.iterdir())) == 3


async def test_nothing_of_a_stranger_is_found(store: SqlStore, tmp_path: Path) -> None:
    """An unknown name forgets nothing."""
    await fill(store, 20)
    done = await Forgetting(store.keeping, runs_dir=tmp_path).forget(Whose("agent", "nobody"))
    assert (done.records, done.episodes, done.attempts) == (0, 0, 0)
    assert await store.count_episodes(EpisodeFilter()) == 20


def model(number: int, episode_ids: tuple[str, ...]) -> TrainedModel:
    """An adapter that was trained on the episodes."""
    return TrainedModel(
        id=f"airline@{number}",
        scenario="airline",
        run_id=f"run-{number}",
        base_model="base",
        learn_model="chat",
        method="sft",
        adapter_path=f"/somewhere/airline@{number}",
        gguf_path=f"/somewhere/airline@{number}/adapter.gguf",
        digest="d" * 64,
        data_digest="e" * 64,
        episode_ids=episode_ids,
        sample_count=len(episode_ids),
        created_at_ms=number,
    )
