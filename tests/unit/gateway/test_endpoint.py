"""The file that names the server which answers: right in each state, whole at every moment."""

from pathlib import Path

import anyio
import httpx
import pytest

from honed.config import ServeSection
from honed.domain.serving import AdapterRef
from honed.gateway.endpoint import Endpoint
from honed.gateway.lane import Lane
from honed.gateway.upstream import Address
from tests.served import serving
from tests.unit.gateway.stub import remember

pytestmark = pytest.mark.anyio


def told(folder: Path) -> str | None:
    """What the file says; None when there is none."""
    path = folder / "tiny.endpoint"
    return path.read_text().strip() if path.exists() else None


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A reader who has the old file open reads the old address to its end."""
    endpoint = Endpoint("tiny", tmp_path)
    endpoint.tell(Address("127.0.0.1", 1))
    with endpoint.path.open() as before:
        endpoint.tell(Address("127.0.0.1", 20_000))
        assert before.read() == "http://127.0.0.1:1\n"
    assert told(tmp_path) == "http://127.0.0.1:20000"
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.endpoint"]
    endpoint.tell(None)
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_gateway_that_was_killed_is_not_believed(tmp_path: Path) -> None:
    """Nothing answers yet when the next gateway begins."""
    (tmp_path / "tiny.endpoint").write_text("http://127.0.0.1:1\n")
    Lane("tiny", ServeSection(), tmp_path, remember)
    assert told(tmp_path) is None


async def test_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """It is told in the log."""
    (tmp_path / "file").write_text("")
    Endpoint("tiny", tmp_path / "file").tell(Address("127.0.0.1", 1))


@pytest.mark.feature("SE-121", "SE-125")
async def test_endpoint_is_right_in_each_state(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Down: none. Active: the server. Starting: the former one. Releasing: the next one, and it answers."""
    lane = Lane("tiny", ServeSection(ctx_size=256, parallel=2, threads=1), tmp_path, remember)
    lane.base_gguf = tiny_gguf
    assert (lane.state, told(tmp_path)) == ("down", None)
    adapter = AdapterRef("tiny@1", str(tiny_adapters[0]))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        with anyio.fail_after(60):
            while lane.backend is None:
                await anyio.sleep(0.005)
        blue = lane.backend
        assert (lane.state, told(tmp_path)) == ("active", str(blue.address))
        async with lane.starting():
            green = await lane.start(adapter)
            assert (lane.state, told(tmp_path)) == ("starting", str(blue.address))
            lane.serve(green)
        assert (lane.state, told(tmp_path)) == ("releasing", str(green.address))
        async with httpx.AsyncClient() as client:
            listed = await client.get(f"{told(tmp_path)}/lora-adapters")
        assert [each["path"] for each in listed.json()] == [str(tiny_adapters[0] / "adapter.gguf")]
        await lane.release(blue)
        assert (lane.state, told(tmp_path)) == ("active", str(green.address))
        tasks.cancel_scope.cancel()
    assert (lane.state, told(tmp_path)) == ("down", None)


@pytest.mark.feature("SE-125")
async def test_control_api_names_the_same_server(tmp_path: Path, tiny_gguf: Path) -> None:
    """`GET /serving` and the file agree, and what they name answers."""
    async with serving(tmp_path, tiny_gguf) as served, served.control() as client:
        told_by_api = (await client.get("/serving")).json()["scenarios"]["tiny"]
        assert told_by_api["state"] == "active"
        assert told_by_api["address"] == told(tmp_path / "llama")
        async with httpx.AsyncClient() as direct:
            assert (await direct.get(f"{told_by_api['address']}/health")).status_code == 200
