"""The intake: validation, groups, the closing loop."""

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from honed.domain.episode import Episode
from honed.domain.events import ActionEvent
from honed.domain.outcome import Failure, Success, Unknown
from honed.domain.records import ActionRecord, Arrival, Record
from honed.errors import LearnError
from honed.learn_models import ChatLearnModel, create
from honed.ports import EpisodeFilter, RecordFilter
from honed.sink import Sink
from honed.stores import open_store
from tests.feed_parts import SECRET, action, call, failure, line, open_intake, success

pytestmark = pytest.mark.anyio


class Stumbling(ChatLearnModel):
    """Fails a number of times before it builds anything."""

    def __init__(self, faults: int) -> None:
        self.faults = faults

    def build_episodes(
        self, records: Sequence[Record], *, now_ms: int, final: bool = False
    ) -> list[Episode]:
        if self.faults:
            self.faults -= 1
            raise LearnError("this group cannot be read")
        return super().build_episodes(records, now_ms=now_ms, final=final)


async def test_malformed_lines_are_rejected_alone_with_their_field() -> None:
    """Every fault names its line and path; the others are stored."""
    broken = action()
    del broken["result"]["success"]
    lines = [
        line(action()),
        line(broken),
        b"not json",
        b'{"type": "dance"}',
        b'{"task_id": "\xff"}',
        line(action(event_id="")),
        line(action()),
    ]
    async with open_intake(None) as intake:
        done = await intake.sink.ingest(lines)
        stats = await intake.store.stats()
        assert intake.sink.counts().rejected == 5
    assert done.stored == 2
    assert [(r.position, r.code, r.path) for r in done.rejected] == [
        (1, "invalid", "$.result.success"),
        (2, "invalid", "$"),
        (3, "invalid", "$.type"),
        (4, "invalid", "$"),
        (5, "invalid", "$.event_id"),
    ]
    assert stats.num_records == 2


async def test_an_outcome_about_nothing_is_rejected() -> None:
    """It could never reach an attempt; one about a group, or of a probe, is no such thing."""
    nobody = {"type": "outcome", "outcome": {"type": "success", "score": 1}}
    lines = [line(nobody), line(nobody | {"group_id": "g"})]
    lines.append(line(nobody | {"task_id": "t", "purpose": "probe"}))
    async with open_intake(None) as intake:
        done = await intake.sink.ingest(lines)
    assert done.stored == 2
    [rejected] = done.rejected
    assert (rejected.position, rejected.code) == (0, "invalid")
    assert "about nothing: expected a task_id" in rejected.message


async def test_a_conflict_is_rejected_at_its_place() -> None:
    """Beside a malformed line the positions stay those of the batch."""
    first, other = action(event_id="e1"), action(event_id="e1", name="jump")
    async with open_intake(None) as intake:
        await intake.sink.ingest([line(first)])
        done = await intake.sink.ingest([b"{", line(first), line(other), line(action())])
    assert (done.stored, done.duplicates) == (1, 1)
    assert [(r.position, r.code) for r in done.rejected] == [(0, "invalid"), (2, "conflict")]


async def test_content_is_compared_with_a_key() -> None:
    """Equal bytes under another key have another digest: digests tell nothing about the events."""
    text = line(action(event_id="e1"))
    async with open_intake(None) as intake:
        sink = intake.sink
        ((first,), _, _) = sink._read([text], 1)
        sink._hash = hashlib.blake2b(digest_size=16, key=b"another")
        ((second,), _, _) = sink._read([text], 1)
    assert first.body == second.body
    assert first.digest != second.digest


async def test_an_ended_task_becomes_an_episode() -> None:
    """Calls, actions and the verdict of one task, in order of arrival, in the daemon's scenario."""
    events = [call(task_id="t1"), action(task_id="t2"), action(task_id="t1"), success(task_id="t1")]
    async with open_intake(None) as intake:
        await intake.sink.ingest([line(event) for event in events])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
        assert await intake.store.get_episode(made.id) == made
        assert (await intake.store.stats()).num_episodes == 1
    assert made.task_id == "t1"
    assert [record.event_id for record in made.records] == [
        events[n]["event_id"] for n in (0, 2, 3)
    ]
    assert (made.outcome, made.metadata.scenario) == (Success(1.0), "airline")


async def test_events_of_another_scenario_are_stored_under_it() -> None:
    """They count for their own scenario, not for the daemon's."""
    events = [action(scenario="rail"), success(task_id="t1", scenario="rail")]
    async with open_intake(None) as intake:
        await intake.sink.ingest([line(event) for event in events])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
        assert await intake.store.count_episodes(EpisodeFilter(scenario="airline")) == 0
    assert made.metadata.scenario == "rail"


async def test_an_idle_task_is_closed_as_it_is() -> None:
    """Without a verdict its outcome is unknown."""
    async with open_intake(None, idle=timedelta(milliseconds=100)) as intake:
        await intake.sink.ingest([line(action())])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    assert made.outcome == Unknown()


@pytest.mark.feature("SE-139")
async def test_records_stay_when_no_episode_comes_of_them() -> None:
    """A task too short for its learn model is closed, counted, and can be looked at."""
    model = create("worker_decision_sequence")
    events = [action(name="look"), action(name="done")]
    async with open_intake(None, learn_models=[model], idle=timedelta(milliseconds=50)) as intake:
        await intake.sink.ingest([line(event) for event in events])
        with anyio.fail_after(60):
            while not intake.sink.counts().groups_without_episode:
                await anyio.sleep(0.01)
        kept = [record async for record in intake.store.records.query(RecordFilter())]
        stats = await intake.store.stats()
    assert [record.event_id for record in kept] == [event["event_id"] for event in events]
    assert (stats.num_records, stats.num_episodes, stats.open_groups) == (2, 0, 0)


@pytest.mark.feature("SE-140")
async def test_an_episode_spans_batches() -> None:
    """Its records come one batch each, among those of others."""
    events = [call(task_id="t1"), action(task_id="t1"), success(task_id="t1")]
    async with open_intake(None) as intake:
        for n, event in enumerate(events):
            await intake.sink.ingest([line(action(task_id=f"other{n}")), line(event)])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    assert [record.event_id for record in made.records] == [event["event_id"] for event in events]


@pytest.mark.feature("SE-140")
async def test_a_record_on_its_way_is_waited_for() -> None:
    """An ended group settles first; what comes meanwhile belongs to it."""
    async with open_intake(None, settle=timedelta(milliseconds=300)) as intake:
        await intake.sink.ingest([line(success(task_id="t1"))])
        await intake.sink.ingest([line(call(task_id="t1"))])
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    assert len(made.records) == 2


async def test_a_verdict_that_overtakes_its_task_closes_nothing_empty() -> None:
    """The group waits for the records that the verdict is about."""
    async with open_intake(None, settle=timedelta(0)) as intake:
        await intake.sink.ingest([line(success(task_id="t1"))])
        with anyio.fail_after(60):
            while not intake.sink._closer._held:
                await anyio.sleep(0.01)
            await intake.sink.ingest([line(call(task_id="t1"))])
            made = await intake.episodes.receive()
    assert made.outcome == Success(1.0)
    assert len(made.records) == 2


@pytest.mark.feature("SE-140")
async def test_a_group_left_by_a_former_process_is_closed(tmp_path: Path) -> None:
    """Groups live in the store: a restart goes on where the crash was."""
    database = tmp_path / "honed.db"
    async with open_intake(database, settle=timedelta(hours=1)) as intake:
        await intake.sink.ingest([line(call(task_id="t1")), line(success(task_id="t1"))])
    async with open_intake(database) as intake:
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    assert made.task_id == "t1"


async def test_a_fault_of_a_learn_model_is_tried_again() -> None:
    """It is logged with the group, costs no record and holds no other group up."""
    model = Stumbling(faults=1)
    with capture_logs() as logs:
        async with open_intake(None, learn_models=[model]) as intake:
            await intake.sink.ingest([line(call(task_id="t1")), line(success(task_id="t1"))])
            with anyio.fail_after(60):
                while not intake.sink.counts().refused_groups:
                    await anyio.sleep(0.01)
                await intake.sink.ingest([line(call(task_id="t2")), line(success(task_id="t2"))])
                made = [(await intake.episodes.receive()).task_id for _ in range(2)]
            assert intake.sink.counts().refused_groups == 0
    assert made == ["t2", "t1"]
    refused = [entry for entry in logs if entry["event"] == "episode.refused"]
    assert [(entry["group"], entry["retry_s"]) for entry in refused] == [("task:t1", 1.0)]


async def test_a_stop_does_not_wait_for_the_backlog(tmp_path: Path) -> None:
    """Cancelled with 5,000 groups due, the closing loop ends at the next group; the rest stay."""
    events = [success(task_id=f"t{n}") for n in range(5_000)]
    events += [action(task_id=f"t{n}") for n in range(5_000)]
    async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as store:
        scope = anyio.CancelScope()
        sink = Sink(
            store,
            [ChatLearnModel()],
            scenario="airline",
            secret=SECRET,
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda _: scope.cancel(),
        )
        await sink.ingest([line(event) for event in events])
        with anyio.fail_after(60), scope:
            await sink.run()
        stats = await store.stats()
    assert 0 < stats.num_episodes <= 100
    assert stats.num_episodes + stats.open_groups == 5_000


async def test_a_faulty_episode_holds_only_its_own_group() -> None:
    """When a page cannot be committed because of one group, the others are closed all the same."""

    class Inventing(ChatLearnModel):
        def build_episodes(
            self, records: Sequence[Record], *, now_ms: int, final: bool = False
        ) -> list[Episode]:
            made = super().build_episodes(records, now_ms=now_ms, final=final)
            if made[0].task_id != "t1":
                return made
            invented = msgspec.structs.replace(made[0].records[0], record_id=None)
            return [msgspec.structs.replace(made[0], records=(invented,))]

    events = [make(task_id=f"t{n}") for n in range(3) for make in (call, success)]
    with capture_logs() as logs:
        async with open_intake(None, learn_models=[Inventing()]) as intake:
            await intake.sink.ingest([line(event) for event in events])
            with anyio.fail_after(60):
                made = {(await intake.episodes.receive()).task_id for _ in range(2)}
                while not intake.sink.counts().refused_groups:
                    await anyio.sleep(0.01)
            assert (await intake.store.stats()).open_groups == 1
    assert made == {"t0", "t2"}
    refused = {entry["group"] for entry in logs if entry["event"] == "episode.refused"}
    assert refused == {"task:t1"}


async def test_a_record_that_cannot_be_grouped_is_stored() -> None:
    """A learn model's fault at the door costs no event."""

    class Choking(ChatLearnModel):
        def group_key(self, arrival: Arrival) -> str | None:
            if isinstance(arrival, ActionEvent) and arrival.action == "poison":
                raise KeyError("oops")
            return super().group_key(arrival)

    with capture_logs() as logs:
        async with open_intake(None, learn_models=[Choking()]) as intake:
            done = await intake.sink.ingest([line(action(name="poison")), line(action())])
    assert done.stored == 2
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "episode.refused"
    ]


async def test_two_learn_models_read_the_same_records() -> None:
    """Each makes an episode of its own."""
    models = [create("chat"), create("worker_decision_sequence")]
    events = [action(name=name) for name in ("a", "b", "c")] + [action(name="done")]
    async with open_intake(None, learn_models=models) as intake:
        await intake.sink.ingest([line(event) for event in events])
        with anyio.fail_after(60):
            made = {(await intake.episodes.receive()).learn_model for _ in range(2)}
    assert made == {"chat", "worker_decision_sequence"}


async def test_a_later_verdict_on_a_call_reaches_the_episode() -> None:
    """By receipt alone, after the episode was made."""
    async with open_intake(None) as intake:
        await intake.sink.ingest(
            [line(call(task_id="t1", receipt_id="r1")), line(success(task_id="t1"))]
        )
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
            await intake.sink.ingest([line(failure("refund asked", receipt_id="r1"))])
        assert (await intake.store.get_episode(made.id)).outcome == Failure("refund asked")


@given(data=st.data(), copies=st.integers(1, 3))
def test_sending_any_split_again_gives_the_same_rows(data: st.DataObject, copies: int) -> None:
    """However a stream is cut into batches and repeated, each event is stored once, in order."""
    events = [action(task_id=f"t{n % 3}", name=f"a{n}") for n in range(12)]
    lines = [json.dumps(event).encode() for event in events]

    async def replay() -> None:
        async with open_intake(None, settle=timedelta(hours=1)) as intake:
            stored = 0
            for _ in range(copies):
                start = 0
                while start < len(lines):
                    size = data.draw(st.integers(1, len(lines)))
                    again = data.draw(st.booleans())
                    for _ in range(1 + again):
                        done = await intake.sink.ingest(lines[start : start + size])
                        stored += done.stored
                        assert not done.rejected
                    start += size
            assert stored == len(lines)
            names = []
            for group in await intake.store.open_groups(
                settled_before_ms=1 << 60, idle_before_ms=1 << 60, now_ms=1 << 60
            ):
                records = (await intake.store.group_records([group.id]))[group.id]
                names += [r.action for r in records if isinstance(r, ActionRecord)]
            assert sorted(names) == sorted(event["action"] for event in events)

    anyio.run(replay)
