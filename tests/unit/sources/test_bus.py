"""The bus inside a process, and the source that empties it into a real store."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from honed.domain.events import (
    ActionEvent,
    ActionResult,
    DependencyGraphEvent,
    Event,
    LearningEvent,
    LearnStatsEvent,
    StrategyAdviceEvent,
    format_event,
    parse_event,
)
from honed.domain.outcome import Unknown
from honed.domain.records import ActionRecord
from honed.errors import StoreError
from honed.ports import DataSink, FilePosition, Ingested, RecordFilter
from honed.sources import BusSource, EventBus, LearningBus
from honed.stores import SqlStore
from tests.feed_parts import Intake, open_intake

pytestmark = pytest.mark.anyio


def act(name: str, **fields: str) -> ActionEvent:
    """One action; its name tells it from the others."""
    told = {"event_id": name, "task_id": "t", "tick": 1, "worker_id": 0, "action": name}
    return ActionEvent(**told | fields, result=ActionResult.ok())  # type: ignore[arg-type]


ADVICE = StrategyAdviceEvent(
    timestamp_ms=1,
    tick=1,
    advisor="a",
    current_strategy="ucb1",
    recommended="greedy",
    should_change=True,
    confidence=0.5,
    reason="r",
    frontier_count=1,
    total_visits=2,
    failure_rate=0.5,
    latency_ms=3,
    success=True,
)
GRAPH = DependencyGraphEvent(
    timestamp_ms=1,
    prompt="p",
    response="r",
    available_actions=("a",),
    discover_order=("a",),
    not_discover_order=(),
    model="m",
    endpoint="e",
    latency_ms=1,
    success=True,
)
STATS = LearnStatsEvent(
    timestamp_ms=1,
    scenario="airline",
    session_id="s",
    outcome=Unknown(),
    total_ticks=1,
    total_actions=1,
    stats={"visits": 3},
)


class Watched:
    """A sink that notes the batches it passes on, and fails or waits when told to."""

    def __init__(self, sink: DataSink) -> None:
        self._sink = sink
        self.batches: list[list[bytes]] = []
        self.may_go = anyio.Event()
        self.may_go.set()
        self.faults = 0

    async def ingest(
        self, lines: Sequence[bytes], *, position: FilePosition | None = None
    ) -> Ingested:
        self.batches.append(list(lines))
        await self.may_go.wait()
        if self.faults:
            self.faults -= 1
            raise StoreError("no room")
        return await self._sink.ingest(lines, position=position)


@asynccontextmanager
async def opened(bus: EventBus, **limits: int) -> AsyncIterator[tuple[Intake, Watched, BusSource]]:
    async with open_intake(None) as intake:
        watched = Watched(intake.sink)
        source = BusSource(bus, watched, **limits)
        async with source.open():
            yield intake, watched, source


async def stored(store: SqlStore) -> list[str]:
    """Names of the stored actions, in the order in which they came."""
    found = [record async for record in store.records.query(RecordFilter())]
    return [record.action for record in found if isinstance(record, ActionRecord)]


async def until_stored(store: SqlStore, count: int) -> None:
    with anyio.fail_after(20):
        while await store.records.count(RecordFilter()) < count:
            await anyio.sleep(0.01)


# ---------------------------------------------------------------- the bus


@pytest.mark.feature("SE-210")
async def test_publishing_needs_no_listener_and_waits_for_none() -> None:
    """Before anybody listens, while nobody takes, and after the bus has ended."""
    bus = EventBus()
    bus.publish(act("a"))
    with bus.subscribe(queue_size=2) as listener:
        bus.publish_batch([act("b"), act("c")])
        assert await listener.take(10) == [act("b"), act("c")]
    bus.publish(act("d"))
    bus.close()
    bus.publish(act("e"))
    with bus.subscribe() as late, anyio.fail_after(60):
        assert await late.take(10) == []


@pytest.mark.feature("SE-211", "SE-129", "SE-144")
async def test_a_slow_listener_loses_its_oldest_events_and_they_are_counted() -> None:
    """One that is quick enough loses none; batch or single makes no difference."""
    bus = EventBus()
    with bus.subscribe(queue_size=3) as slow, bus.subscribe(queue_size=100) as quick:
        for n in range(5):
            bus.publish(act(f"a{n}"))
        bus.publish_batch([act(f"a{n}") for n in range(5, 10)])
        assert (slow.lagged, quick.lagged) == (7, 0)
        assert [event.action for event in await slow.take(10)] == ["a7", "a8", "a9"]
        assert len(await quick.take(100)) == 10


@pytest.mark.feature("SE-129")
async def test_whoever_sends_waits_for_room() -> None:
    """Ten senders, a queue of two: nothing is lost, and nobody waits for ever."""
    bus = EventBus()
    taken: list[Event] = []
    with bus.subscribe(queue_size=2) as listener, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(bus.send, act(f"a{n}"))
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert len(listener) == 2
            while len(taken) < 10:
                taken += await listener.take(1)
        assert listener.lagged == 0
        await bus.send(act("b0"))
        await bus.send(act("b1"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bus.send, act("b2"))
            await anyio.lowlevel.checkpoint()
            bus.close()  # and whoever waits is let go
    assert sorted(e.action for e in taken if isinstance(e, ActionEvent)) == sorted(
        f"a{n}" for n in range(10)
    )


async def test_threads_publish_to_a_listener_in_the_loop() -> None:
    """Every event arrives once, each thread's in its order."""
    bus = EventBus()
    taken: list[str] = []

    def agent(who: str) -> None:
        for n in range(500):
            bus.publish(act(f"{who}{n}"))

    with bus.subscribe() as listener, anyio.fail_after(20):
        threads = [threading.Thread(target=agent, args=(who,)) for who in "abc"]
        for thread in threads:
            thread.start()
        while len(taken) < 1_500:
            taken += [e.action for e in await listener.take(64) if isinstance(e, ActionEvent)]
        for thread in threads:
            thread.join()
    for who in "abc":
        assert [name for name in taken if name[0] == who] == [f"{who}{n}" for n in range(500)]


@pytest.mark.feature("SE-210")
async def test_the_learning_bus_is_off_until_it_is_turned_on() -> None:
    """What is emitted before goes nowhere."""
    bus = LearningBus()
    with bus.subscribe() as listener:
        bus.emit(ADVICE)
        assert (len(listener), bus.is_on) == (0, False)
        bus.turn_on()
        bus.emit(GRAPH)
        assert await listener.take(10) == [GRAPH]


@pytest.mark.feature("SE-209")
async def test_the_three_events_of_learning_come_into_the_store() -> None:
    """Each reads back from its JSON and becomes a record of its own kind."""
    told: list[LearningEvent] = [ADVICE, GRAPH, STATS]
    assert [parse_event(format_event(event)) for event in told] == told
    assert {type(event) for event in told} == set(LearningEvent.__args__)
    bus = LearningBus()
    bus.turn_on()
    async with opened(bus) as (intake, _, _):
        for event in told:
            bus.emit(event)
        await until_stored(intake.store, 3)
        rows = await intake.store.records.list(RecordFilter())
    assert [row.type for row in rows] == ["strategy_advice", "dependency_graph", "learn_stats"]


# ---------------------------------------------------------------- the source


@pytest.mark.feature("SE-142")
async def test_what_waits_goes_as_one_batch_and_no_batch_waits_to_be_full() -> None:
    """One event alone is stored at once; what came during its commit goes together, in order."""
    bus = EventBus()
    async with opened(bus, batch_max=100) as (intake, watched, _):
        watched.may_go = anyio.Event()
        bus.publish(act("first"))
        with anyio.fail_after(60):
            while not watched.batches:
                await anyio.sleep(0.01)
        for n in range(250):
            bus.publish(act(f"a{n}"))
        watched.may_go.set()
        await until_stored(intake.store, 251)
        assert [len(batch) for batch in watched.batches] == [1, 100, 100, 50]
        assert await stored(intake.store) == ["first", *(f"a{n}" for n in range(250))]


@pytest.mark.feature("SE-142")
async def test_a_batch_has_a_limit_in_bytes() -> None:
    """An event that is longer goes alone; one too long for a line is passed over and counted."""
    bus = EventBus()
    long, endless = act("long", target="x" * 5_000), act("endless", target="x" * 9_000)
    async with opened(bus, batch_bytes=2_000, line_max=8_000) as (intake, watched, source):
        bus.publish_batch([*(act(f"a{n}") for n in range(40)), long, endless, act("last")])
        await until_stored(intake.store, 42)
        assert source.status() == {"waiting": 0, "lagged": 0, "rejected": 1}
        assert await stored(intake.store) == [*(f"a{n}" for n in range(40)), "long", "last"]
    sizes = [sum(map(len, batch)) for batch in watched.batches]
    assert [len(batch) for batch in watched.batches if sum(map(len, batch)) > 2_000] == [1]
    assert len(sizes) > 3


@pytest.mark.feature("SE-143")
@pytest.mark.parametrize("side", ["source", "bus"])
async def test_what_waits_is_stored_when_either_side_closes(side: str) -> None:
    """The source when the daemon stops, the bus when the swarm ends."""
    bus = EventBus()
    async with open_intake(None) as intake:
        watched = Watched(intake.sink)
        watched.may_go = anyio.Event()
        async with BusSource(bus, watched, batch_max=10).open():
            bus.publish_batch([act(f"a{n}") for n in range(100)])
            await anyio.lowlevel.checkpoint()
            if side == "bus":
                bus.close()
                bus.publish(act("too late"))
                watched.may_go.set()
                await until_stored(intake.store, 100)
            watched.may_go.set()
        assert await stored(intake.store) == [f"a{n}" for n in range(100)]


@pytest.mark.feature("SE-144")
async def test_what_came_faster_than_the_store_is_counted() -> None:
    """The status says how many; what is left is the newest."""
    bus = EventBus("swarm")
    async with opened(bus, queue_size=10) as (intake, watched, source):
        watched.may_go = anyio.Event()
        bus.publish(act("first"))
        with anyio.fail_after(60):
            while not watched.batches:
                await anyio.sleep(0.01)
        bus.publish_batch([act(f"a{n}") for n in range(25)])
        assert source.status() == {"waiting": 10, "lagged": 15, "rejected": 0}
        watched.may_go.set()
        await until_stored(intake.store, 11)
        assert await stored(intake.store) == ["first", *(f"a{n}" for n in range(15, 25))]


async def test_a_batch_that_cannot_be_stored_is_tried_again() -> None:
    """At the latest when the source closes; then what still cannot is counted as lost."""
    bus = EventBus()
    async with open_intake(None) as intake:
        watched = Watched(intake.sink)
        watched.faults = 1
        async with BusSource(bus, watched).open():
            bus.publish(act("a"))
            with anyio.fail_after(60):
                while not watched.batches:
                    await anyio.sleep(0.01)
        assert await stored(intake.store) == ["a"]
        assert len(watched.batches) == 2
        watched.faults = 9
        lost = BusSource(bus, watched)
        async with lost.open():
            bus.publish(act("b"))
        assert lost.num_lost == 1


async def test_events_in_conflict_are_counted() -> None:
    """A repeat is known, another content under its id is refused."""
    bus = EventBus()
    async with opened(bus) as (intake, _, source):
        other = msgspec.structs.replace(act("a"), action="jump")
        bus.publish_batch([act("a"), act("a"), other, act("b")])
        await until_stored(intake.store, 2)
        assert source.num_rejected == 1
        assert (await intake.store.stats()).num_duplicates == 1
