"""A server makes room while the daemon trains, and is back when the run has ended or nothing is heard of it."""

from pathlib import Path

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from honed.config import ServeSection
from honed.domain.serving import ServerVitals, Switched
from honed.gateway import yielding
from honed.gateway.yielding import leaner
from tests.served import Load, Served, model, servers_of, serving, until

pytestmark = pytest.mark.anyio


async def note(served: Served, lasts_s: float) -> Switched:
    async with served.control() as client:
        answer = await client.post("/v1/scenarios/tiny/training", json={"lasts_s": lasts_s})
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Switched)


async def vitals(served: Served) -> ServerVitals:
    async with served.control() as client:
        answer = await client.get("/v1/scenarios/tiny/server")
    return msgspec.json.decode(answer.content, type=ServerVitals)


def test_what_is_left_while_a_run_trains() -> None:
    """No GPU, or the context of one slot; `share` leaves everything."""
    section = ServeSection(while_training="cpu", parallel=4, n_gpu_layers=99)
    assert leaner(section).n_gpu_layers == 0
    assert leaner(section).parallel == 4
    assert leaner(section.model_copy(update={"while_training": "one_slot"})).parallel == 1
    sharing = ServeSection()
    assert leaner(sharing) is sharing


async def test_server_sheds_slots_and_has_them_again(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The same adapter answers throughout, and clients see no failure."""
    settings = {"while_training": "one_slot", "parallel": 2}
    async with serving(tmp_path, tiny_gguf, **settings) as served:
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        before = await vitals(served)
        load = Load(served)
        async with anyio.create_task_group() as clients:
            clients.start_soon(load.client, True)
            begun = await note(served, 300)
            during = await vitals(served)
            again = await note(served, 300)
            ended = await note(served, 0)
            after = await vitals(served)
            await load.more(2)
            clients.cancel_scope.cancel()
        assert (before.slots, during.slots, after.slots) == (2, 1, 2)
        assert (begun.strategy, again.strategy, ended.strategy) == (
            "blue_green",
            None,
            "blue_green",
        )
        assert load.failures == []
        assert {name for name, _ in load.answers} == {"tiny@1"}
        assert len({each.pid for each in (before, during, after)}) == 3


async def test_daemon_that_is_silent_has_ended(tmp_path: Path, tiny_gguf: Path) -> None:
    """A run is taken for ended when it was not spoken of for as long as was said."""
    settings = {"while_training": "one_slot", "parallel": 2}
    async with serving(tmp_path, tiny_gguf, **settings) as served:
        await note(served, 0.01)

        async def is_back() -> bool:
            return (await vitals(served)).slots == 2

        await until(is_back)


@pytest.mark.parametrize("ends", ["told", "silent"])
async def test_server_that_could_not_grow_again_is_tried_until_it_has(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """The run has ended, and what the larger server needs is not there yet; the small one answers meanwhile."""
    monkeypatch.setattr(yielding, "_FIRST_WAIT_S", 0.01)
    base, away = tmp_path / "base.gguf", tmp_path / "away.gguf"
    base.hardlink_to(tiny_gguf)
    with capture_logs() as logged:
        async with serving(tmp_path, base, while_training="one_slot", parallel=2) as served:
            await note(served, 300)
            base.rename(away)
            if ends == "told":
                with pytest.raises(AssertionError, match=r"base\.gguf"):
                    await note(served, 0)
            else:
                await note(served, 0.001)

            async def was_tried() -> bool:
                return len([line for line in logged if "again_in_s" in line]) >= 2

            await until(was_tried)
            assert (await vitals(served)).slots == 1
            assert (await served.answer())[0] == "base"
            away.rename(base)

            async def is_back() -> bool:
                return (await vitals(served)).slots == 2

            await until(is_back)


async def test_sharing_server_is_left_alone(tmp_path: Path, tiny_gguf: Path) -> None:
    """By default nothing is exchanged; what is no notice is refused."""
    async with serving(tmp_path, tiny_gguf) as served:
        before = await vitals(served)
        told = await note(served, 300)
        assert (told.strategy, told.seconds) == (None, {})
        assert (await vitals(served)).pid == before.pid
        async with served.control() as client:
            answer = await client.post("/v1/scenarios/tiny/training", json={})
        assert answer.status_code == 422


async def test_new_adapter_is_served_leanly_while_a_run_trains(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A switch in between starts a server like the one that made room."""
    settings = {"while_training": "one_slot", "parallel": 2}
    async with serving(tmp_path, tiny_gguf, **settings) as served:
        await note(served, 300)
        await served.applier.apply(model(tiny_adapters[0]), previous=None)
        found = await vitals(served)
        assert (found.model_id, found.slots) == ("tiny@1", 1)


def slots_of(folder: Path) -> list[int]:
    """Of each server that runs."""
    found = []
    for pid in servers_of(folder):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]
        found.append(msgspec.json.decode(Path(arguments.decode()).read_bytes())["parallel"])
    return found


async def test_candidate_makes_room_as_well(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """It would keep what the run needs; and one that is promoted later would stay small for ever."""
    first, second = tiny_adapters
    settings = {"while_training": "one_slot", "parallel": 2}
    async with serving(tmp_path, tiny_gguf, **settings) as served:
        await served.applier.apply(model(first), previous=None)
        async with served.control() as client:
            order = {"model_id": "tiny@2", "adapter_path": str(second), "share": 0.5}
            tried = await client.post("/v1/scenarios/tiny/canary", json=order)
            assert tried.status_code == 200, tried.text

        async def are_both_there() -> bool:
            candidate = (await served.lane()).candidate
            assert candidate is not None
            return candidate.state == "active" and len(servers_of(tmp_path)) == 2

        before = slots_of(tmp_path)
        await note(served, 300)
        await until(are_both_there)
        during = slots_of(tmp_path)
        await note(served, 0)
        await until(are_both_there)
        assert (before, during, slots_of(tmp_path)) == ([2, 2], [1, 1], [2, 2])
        candidate = (await served.lane()).candidate
        assert candidate is not None
        assert (candidate.error, candidate.failed) == (None, 0)
