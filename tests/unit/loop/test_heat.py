"""Runs rest while a GPU is over its limits, by readings that are made up."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from honed.config import GpuSection
from honed.loop.heat import COOLER, LEAST_REST_S, Heat
from honed.machine.nvidia import Card
from honed.stores import SqlStore
from tests.unit.loop.test_pauses import Swarm, at_work

pytestmark = pytest.mark.anyio


@dataclass
class Room:
    """A card and a clock."""

    celsius: int | None = 50
    watts: float | None = 100.0
    now_s: float = 0.0

    def cards(self) -> tuple[Card, ...]:
        return (Card(0, "H", 1, 1, {}, self.celsius, self.watts),)


def heat(room: Room, **limits: int) -> Heat:
    return Heat(GpuSection(**limits), reading=room.cards, clock=lambda: room.now_s)  # type: ignore[arg-type]


async def test_hot_card_rests_until_it_is_cooler() -> None:
    """At the limit it goes on; above, it rests for 5 minutes at least, and until it is 10 degrees below."""
    room = Room(celsius=83)
    judged = heat(room, max_celsius=83)
    assert not await judged.is_over()
    room.celsius = 84
    assert await judged.is_over()
    room.celsius = 83 - COOLER
    room.now_s = LEAST_REST_S - 1
    assert await judged.is_over()
    room.now_s = LEAST_REST_S
    room.celsius = 83 - COOLER + 1
    assert await judged.is_over()
    room.celsius = 83 - COOLER
    assert not await judged.is_over()
    room.celsius = 84
    assert await judged.is_over()


async def test_card_that_takes_too_much_rests_for_a_while() -> None:
    """A run that is paused takes nothing at once: that is no reason to go on."""
    room = Room(watts=601.0)
    judged = heat(room, max_watts=600)
    assert await judged.is_over()
    room.watts = 80.0
    assert await judged.is_over()
    room.now_s = LEAST_REST_S
    assert not await judged.is_over()


async def test_what_a_driver_does_not_tell_is_no_reason_to_rest() -> None:
    """Nor is a machine without cards, and without limits nothing is even read."""
    room = Room(celsius=None, watts=None)
    assert not await heat(room, max_celsius=40, max_watts=1).is_over()
    assert not await Heat(GpuSection(max_celsius=40), reading=tuple).is_over()

    def unread() -> tuple[Card, ...]:
        raise AssertionError

    assert not await Heat(GpuSection(), reading=unread).is_over()


async def test_run_rests_while_a_card_is_too_hot(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its rule: it stops with a checkpoint, goes on under its own id, and none begins meanwhile."""
    swarm = Swarm(store, tmp_path, monkeypatch, trigger="count(1)")
    room = Room()
    swarm.loop._pauses._heat = heat(room, max_celsius=83)
    async with at_work(swarm):
        await swarm.begin()
        room.celsius = 90
        swarm.loop.notify()
        paused = await swarm.paused()
        await swarm.loop.beat()
        assert [run.id for run in await swarm.runs()] == [paused]
        swarm.training.may_end.set()
        room.celsius, room.now_s = 60, LEAST_REST_S
        swarm.loop.notify()
        (run,) = await swarm.ended()
        assert (run.id, run.state) == (paused, "done")


async def test_no_run_begins_while_a_card_is_too_hot(
    store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins when the card has recovered."""
    swarm = Swarm(store, tmp_path, monkeypatch, trigger="count(1)")
    room = Room(celsius=90)
    swarm.loop._pauses._heat = heat(room, max_celsius=83)
    async with at_work(swarm):
        await swarm.add(1, 3)
        await swarm.loop.beat()
        await swarm.loop.beat()
        assert await swarm.runs() == []
        room.celsius, room.now_s = 60, LEAST_REST_S
        swarm.loop.notify()
        (run,) = await swarm.ended()
        assert run.state == "done"
