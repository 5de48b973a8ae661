"""Room for a run on a GPU: asked for, waited for, given back; by readings that are made up."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from honed.config import GpuSection
from honed.domain.serving import ServerVitals
from honed.errors import ApplyError, TrainingError
from honed.machine.nvidia import Card, Reading
from honed.processors import Sharing, sharing
from tests.served import Served, serving, until

pytestmark = pytest.mark.anyio


def free(*sizes: int) -> Reading:
    """Readings one after the other, the last one for ever."""
    left = list(sizes)

    def cards() -> tuple[Card, ...]:
        size = left.pop(0) if len(left) > 1 else left[0]
        return (Card(0, "H", 80 << 30, size, {}),)

    return cards


class Server:
    """What the server was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    async def make_room(self, lasts_s: float) -> None:
        self.told.append(lasts_s)


async def done() -> str:
    return "done"


async def test_server_is_told_that_a_run_goes_on_and_that_it_has_ended() -> None:
    """Also when it fails, with the error as it is; and when it is cancelled."""
    server = Server()
    around = Sharing(GpuSection(), server.make_room)
    assert await around.during(done) == "done"
    assert server.told == [120.0, 0]

    async def fail() -> str:
        raise TrainingError("no data")

    with pytest.raises(TrainingError, match="no data"):
        await around.during(fail)
    assert server.told == [120.0, 0] * 2
    with anyio.move_on_after(0.05):
        await around.during(anyio.sleep_forever)
    assert server.told == [120.0, 0] * 3


async def test_server_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it knows when the daemon is gone."""
    monkeypatch.setattr(sharing, "_AGAIN_S", 0.001)
    server = Server()

    async def work() -> None:
        with anyio.fail_after(30):
            while len(server.told) < 4:
                await anyio.sleep(0.001)

    await Sharing(GpuSection(), server.make_room).during(work)
    assert server.told[-1] == 0
    assert set(server.told[:-1]) == {120.0}


async def test_run_goes_on_without_a_server() -> None:
    """It may fit all the same."""

    async def make_room(lasts_s: float) -> None:
        raise ApplyError("no gateway listens")

    assert await Sharing(GpuSection(), make_room).during(done) == "done"
    assert await Sharing(GpuSection(), None).during(done) == "done"


async def test_run_waits_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins when a card has as much free as is asked for."""
    monkeypatch.setattr(sharing, "_LOOK_EVERY_S", 0.001)
    reading: Callable[[], tuple[Card, ...]] = free(1 << 30, 2 << 30, 3 << 30)
    seen: list[int] = []

    def watched() -> tuple[Card, ...]:
        cards = reading()
        seen.append(cards[0].free)
        return cards

    around = Sharing(GpuSection(free=3 << 30), None, reading=watched)
    assert await around.during(done) == "done"
    assert seen == [1 << 30, 2 << 30, 3 << 30]


async def test_run_that_finds_no_memory_fails() -> None:
    """After `gpu.wait`, with what was free; a machine without cards waits for none."""
    section = GpuSection(free=3 << 30, wait=timedelta(0))
    with pytest.raises(TrainingError, match=r"no GPU has 3\.0 GiB free: 1\.0 GiB after 0 s"):
        await Sharing(section, None, reading=free(1 << 30)).during(done)
    assert await Sharing(section, None, reading=tuple).during(done) == "done"


async def test_server_behind_the_gateway_makes_room_for_a_run(
    tmp_path: Path, tiny_gguf: Path
) -> None:
    """While the run trains it has one slot; then it has them all again."""

    async def slots(served: Served) -> int | None:
        async with served.control() as client:
            answer = await client.get("/v1/scenarios/tiny/server")
        return msgspec.json.decode(answer.content, type=ServerVitals).slots

    async with serving(tmp_path, tiny_gguf, while_training="one_slot", parallel=2) as served:
        around = Sharing(GpuSection(), served.applier.make_room)
        assert await around.during(lambda: slots(served)) == 1

        async def has_all() -> bool:
            return await slots(served) == 2

        await until(has_all)
