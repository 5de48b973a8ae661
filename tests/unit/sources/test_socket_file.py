"""The socket's file goes while the daemon runs: it is made anew, or the operator hears why not."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from honed.client import AsyncHonedClient
from honed.listen import claim_unix_path
from honed.sources import SocketSource
from honed.sources import socket as source_module
from tests.feed_parts import action, open_intake

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "WATCH_S", 0.02)


async def until(look: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not look():
            await anyio.sleep(0.01)


async def test_a_deleted_socket_is_made_anew(tmp_path: Path) -> None:
    """Who is connected stays so, who comes later finds it again; it is logged, and nothing is lost."""
    path = tmp_path / "run" / "feed.sock"
    async with open_intake(None) as intake:
        source = SocketSource(path, intake.sink, scenario="airline", line_max=1_000)
        with capture_logs() as logs:
            async with source.open(), AsyncHonedClient(path) as before:
                await before.send(action())
                for _ in range(2):
                    path.unlink()
                    path.parent.rmdir()
                    await until(path.exists)
                    async with AsyncHonedClient(path) as after:
                        assert (await after.send(action())).stored == 1
                    assert (await before.send(action())).stored == 1
                assert path.stat().st_mode & 0o777 == 0o600
        assert not path.exists()
        assert (await intake.store.stats()).num_records == 5
    assert [entry["event"] for entry in logs].count("source.reopened") == 2


async def test_what_is_in_the_way_is_told_until_it_is_gone(tmp_path: Path) -> None:
    """A file in the socket's place is not touched."""
    path = tmp_path / "feed.sock"
    async with open_intake(None) as intake:
        source = SocketSource(path, intake.sink, scenario="airline", line_max=1_000)
        async with source.open():
            path.unlink()
            path.write_text("mine")
            await until(lambda: source.problem)
            assert "in the way" in (source.problem or "")
            assert path.read_text() == "mine"
            path.unlink()
            await until(path.is_socket)
            async with AsyncHonedClient(path) as client:
                assert (await client.send(action())).stored == 1
            assert source.problem is None


async def test_another_processs_socket_is_left_alone(tmp_path: Path) -> None:
    """Somebody else took the place: that is told, and neither waiting nor stopping deletes his file."""
    path = tmp_path / "feed.sock"
    async with open_intake(None) as intake:
        source = SocketSource(path, intake.sink, scenario="airline", line_max=1_000)
        async with source.open():
            path.unlink()
            other = claim_unix_path(path)
            await until(lambda: source.problem)
            assert "another process listens" in (source.problem or "")
    assert path.is_socket()
    other.close()
