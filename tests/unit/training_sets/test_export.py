"""Exported whole and imported into another store, an episode is the same; nothing is imported twice."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from honed.domain.episode import Episode
from honed.domain.outcome import Failure, Success, Unknown
from honed.errors import ValidationError
from honed.learn_models import DpoConfig, DpoLearnModel, create
from honed.ports import EpisodeFilter
from honed.redaction import Redaction
from honed.sink import Sink
from honed.stores import SqlStore, open_store
from honed.training_sets import FORMATS, Export, StoredEpisode
from honed.training_sets.formats.own import read_episode
from honed.training_sets.harvest import MAY_NOT_TEACH
from honed.training_sets.trajectories import Trajectory, events_of
from tests.unit.training_sets.conversations import TEXT, trajectories

ALL = EpisodeFilter()
OUTCOMES = st.sampled_from([Success(1.0), Success(0.25), Failure("nö"), Unknown()])


class Place:
    """A store with its intake."""

    def __init__(self, store: SqlStore, sink: Sink) -> None:
        self.store = store
        self.sink = sink

    async def tell(self, lines: Sequence[bytes]) -> None:
        """Send events and wait until they are episodes."""
        ingested = await self.sink.ingest(lines)
        assert not ingested.rejected
        with anyio.fail_after(20):
            while await self.store.next_due_ms(settle_ms=0, idle_ms=0) is not None:
                await anyio.sleep(0.01)

    async def export(self, shape: str = "honed", **fields: Any) -> tuple[list[bytes], Export]:
        """What is written, and what came of it."""
        export = Export(
            store=self.store,
            learn_model=create("chat"),
            scenario="air",
            shape=shape,
            filter=EpisodeFilter(**fields),
        )
        return [line async for line in export.lines()], export

    async def adopt(self, line: bytes) -> bool:
        """Import a line of the form honed."""
        told = FORMATS["honed"].read(line)
        assert isinstance(told, StoredEpisode)
        return await self.sink.adopt(told.episode, told.provenance)

    async def episodes(self) -> list[Episode]:
        """All of them, records without the numbers that this store gave them."""
        return [_plain(episode) async for episode in self.store.query_episodes(ALL)]


def _plain(episode: Episode) -> Episode:
    records = tuple(msgspec.structs.replace(r, record_id=None) for r in episode.records)
    return msgspec.structs.replace(episode, records=records)


@asynccontextmanager
async def place(
    folder: Path | None = None,
    model: str = "chat",
    secret: bytes = b"a",
    redaction: Redaction = Redaction(),  # noqa: B008 - a value
) -> AsyncIterator[Place]:
    """A store in memory, or in a folder."""
    url = "sqlite://" if folder is None else f"sqlite:///{folder / 'honed.db'}"
    async with open_store(url) as store:
        sink = Sink(
            store,
            [create(model)],
            scenario="air",
            secret=secret,
            settle=timedelta(0),
            idle=timedelta(0),
            on_episode=lambda episode: None,
            redaction=redaction,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.run)
            yield Place(store, sink)
            tasks.cancel_scope.cancel()


def told(task: str, outcome: Any, answer: str = "4", **fields: Any) -> list[bytes]:
    """The events of one attempt, as a client writes them."""
    call = {
        "type": "llm_call",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "response_message": {"role": "assistant", "content": answer},
        "not_known_to_us": [1, 2.50],
    }
    verdict = {"type": "outcome", "outcome": msgspec.to_builtins(outcome), "source": "judge"}
    return [
        json.dumps(
            event | {"task_id": task, "event_id": f"{task}-{event['type']}"} | fields
        ).encode()
        for event in (call, verdict)
    ]


@settings(max_examples=10)
@given(
    told=st.lists(
        trajectories(
            outcome=OUTCOMES, group_id=st.none() | st.just("g"), tags=st.dictionaries(TEXT, TEXT)
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whole_episodes_are_the_same_elsewhere(told: list[Trajectory]) -> None:
    """Id, task, group, outcome, metadata, every record, every event byte for byte, every verdict."""

    async def test() -> None:
        async with place() as here, place(secret=b"b") as there:
            await here.tell([line for one in told for line in events_of(one).lines])
            lines, _ = await here.export()
            for line in lines:
                assert read_episode(line).episode in await here.episodes()
                assert await there.adopt(line)
            assert await there.episodes() == await here.episodes()
            assert (await there.export())[0] == lines
            for line in lines:
                assert not await there.adopt(line)
                assert not await here.adopt(line)

    anyio.run(test)


def test_a_late_verdict_and_what_was_said_before_it_go_along() -> None:
    """The newest counts; each keeps its source and its time."""

    async def test() -> None:
        async with place() as here, place() as there:
            await here.tell(told("t1", Success(0.5)))
            (episode,) = await here.episodes()
            await here.store.set_outcome(episode.id, Failure("refunded"), source="a person")
            (line,), _ = await here.export()
            assert await there.adopt(line)
            assert (await there.episodes())[0].outcome == Failure("refunded")
            assert await there.store.provenance([episode.id]) == await here.store.provenance(
                [episode.id]
            )
            verdicts = (await there.store.provenance([episode.id]))[episode.id].verdicts
            assert [said.source for said in verdicts] == ["judge", "a person"]
            # and one that comes still later finds it there
            late = {"type": "outcome", "outcome": {"type": "success"}, "task_id": "t1"}
            await there.sink.ingest([json.dumps(late).encode()])
            assert (await there.episodes())[0].outcome == Success(1.0)

    anyio.run(test)


def test_workers_of_one_task_are_episodes_of_their_own() -> None:
    """They share the task's end, and neither is taken for the other."""

    def action(worker: int, tick: int, name: str) -> bytes:
        event = {"task_id": "t1", "worker_id": worker, "tick": tick, "action": name}
        return json.dumps(event | {"result": {"success": True}, "event_id": f"e{tick}"}).encode()

    async def test() -> None:
        model = "worker_decision_sequence"
        async with place(model=model) as here, place(model=model) as there:
            lines = [action(tick % 2, tick, f"look_{tick}") for tick in range(6)]
            await here.tell([*lines, action(0, 6, "done")])
            exported, _ = await here.export()
            assert [await there.adopt(line) for line in exported] == [True, True]
            assert await there.episodes() == await here.episodes()
            assert (await there.store.stats()).num_records == 7
            assert await there.store.distinct_actions("air") == await here.store.distinct_actions(
                "air"
            )

    anyio.run(test)


def test_an_episode_that_came_in_another_way_is_known() -> None:
    """The same events made an episode of their own there: nothing is added."""

    async def test() -> None:
        async with place() as here, place() as there:
            for session in ({}, {"task_id": None, "session_id": "s1"}):
                name = "t1" if not session else "t2"
                await here.tell(told(name, Success(1.0), **session))
                await there.tell(told(name, Success(1.0), **session))
            lines, _ = await here.export()
            assert len(lines) == 2
            assert [await there.adopt(line) for line in lines] == [False, False]
            assert (await there.store.stats()).num_episodes == 2

    anyio.run(test)


def test_an_event_with_other_content_is_refused_and_nothing_of_it_stays() -> None:
    """One id, two contents: neither replaces the other."""

    async def test() -> None:
        async with place() as here, place() as there:
            await here.tell(told("t1", Success(1.0)))
            call, _ = told("t9", Success(1.0), event_id="t1-llm_call")
            await there.tell([call])
            (line,), _ = await here.export()
            with pytest.raises(ValidationError, match="t1-llm_call is stored already"):
                await there.adopt(line)
            stats = await there.store.stats()
            assert (stats.num_records, stats.num_episodes) == (1, 0)

    anyio.run(test)


def test_what_may_not_teach_is_in_no_training_set_but_in_the_whole() -> None:
    """`train: false` keeps an episode out of every shape; the form honed keeps the mark."""

    async def test() -> None:
        async with place() as here:
            await here.tell(told("t1", Success(1.0), train=False))
            await here.tell(told("t2", Success(1.0), train=False, group_id="g"))
            await here.tell(told("t3", Failure("no"), "5", group_id="g"))
            for shape in ("sft", "labelled", "prompt-completion", "sharegpt", "preference"):
                lines, export = await here.export(shape, outcomes=frozenset({"success", "failure"}))
                assert len(lines) == (shape != "preference")
                assert export.left_out[MAY_NOT_TEACH] == (1 if shape == "preference" else 2)
            lines, _ = await here.export()
            marks = [read_episode(line).episode.may_teach for line in lines]
            assert marks == [False, False, True]

    anyio.run(test)


def test_pairs_are_made_within_groups() -> None:
    """Attempts without a group, a verdict or a partner are counted, each once."""

    async def test() -> None:
        async with place() as here:
            await here.tell(told("a", Success(1.0), "4", group_id="g"))
            await here.tell(told("b", Failure("no"), "5", group_id="g"))
            await here.tell(told("c", Success(1.0), "6", group_id="alone"))
            await here.tell(told("d", Success(1.0), "7"))
            await here.tell(told("e", Unknown(), "8", group_id="g"))
            (line,), export = await here.export("preference")
            row = json.loads(line)
            assert [row[side][0]["content"] for side in ("chosen", "rejected")] == ["4", "5"]
            assert export.num_episodes == 5
            assert sorted(export.left_out.values()) == [1, 1, 1]

    anyio.run(test)


def test_an_episode_of_a_newer_form_is_refused() -> None:
    """Rather than read as what it is not."""
    line = b'{"honed": 2, "episode": 7}'
    with pytest.raises(ValueError, match=r"\$\.honed is 2: expected 1"):
        read_episode(line)


def _work(task: str, group: str, action: str, outcome: Any) -> list[bytes]:
    """The events of one attempt of a worker."""
    acted = {
        "type": "action", "tick": 1, "worker_id": 1, "action": action,
        "result": {"success": True}, "context": {"observation": "slow"},
    }  # fmt: skip
    verdict = {"type": "outcome", "outcome": msgspec.to_builtins(outcome)}
    names = {"task_id": task, "group_id": group, "scenario": "air"}
    return [
        msgspec.json.encode(event | names | {"event_id": f"{task}-{n}"})
        for n, event in enumerate((acted, acted | {"action": "done", "tick": 2}, verdict))
    ]


def test_a_model_of_pairs_exports_its_own() -> None:
    """By the rules of the config: gaps of scores, not success against failure alone, ordered over all groups."""

    async def test() -> None:
        model = DpoLearnModel.wrapping(create("worker_task"), DpoConfig(max_pairs=2))
        async with place(model="dpo(worker_task)") as here:
            for group, low in (("g", 0.4), ("h", 0.0), ("i", 0.7)):
                await here.tell(_work(f"{group}-good", group, "fix", Success(0.9)))
                await here.tell(_work(f"{group}-poor", group, "break", Success(low)))
            await here.tell(_work("alone", "j", "fix", Success(0.9)))
            export = Export(
                store=here.store, learn_model=model, scenario="air", shape="preference",
                filter=EpisodeFilter(learn_model=model.name),
            )  # fmt: skip
            rows = [msgspec.json.decode(line) async for line in export.lines()]
        told = [
            [row[side][-1]["content"] for side in ("prompt", "chosen", "rejected")] for row in rows
        ]
        assert told == [["Task: slow\nAvailable actions: break, fix", "fix", "break"]] * 2
        assert export.left_out == {"no other attempt to compare it with": 3}

    anyio.run(test)
