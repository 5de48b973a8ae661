"""Who may connect: the kernel's word for the user at the other end, whatever the modes say."""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from honed.errors import ConfigError
from honed.sources import SocketSource
from tests.feed_parts import action, line, open_intake

pytestmark = pytest.mark.anyio
NOBODY = 65_534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter; those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


async def visited(path: Path, *, allow_uids: tuple[int, ...], opened_up: bool = False) -> Any:
    """What nobody's process hears when it sends an event; with the source, which has counted."""
    async with open_intake(None) as intake:
        source = SocketSource(
            path, intake.sink, scenario="airline", line_max=1_000, allow_uids=allow_uids
        )
        async with source.open():
            if opened_up:
                path.chmod(0o666)
            mode = path.stat().st_mode & 0o777
            said = await anyio.to_thread.run_sync(send_as_nobody, path)
        stored = (await intake.store.stats()).num_records
    return json.loads(said), mode, source.num_forbidden, stored


@only_root
async def test_another_user_is_told_that_he_may_not(folder: Path) -> None:
    """Even where the modes let him in: what to do is said, he is counted, nothing is stored."""
    with capture_logs() as logs:
        told, _, num_forbidden, stored = await visited(
            folder / "feed.sock", allow_uids=(), opened_up=True
        )
    assert (told["type"], told["code"], told["line"]) == ("error", "forbidden", 0)
    assert str(NOBODY) in told["message"]
    assert "events.allow_uids" in told["advice"]
    assert (num_forbidden, stored) == (1, 0)
    assert [entry["uid"] for entry in logs if entry["event"] == "source.forbidden"] == [NOBODY]


@only_root
async def test_a_user_who_is_allowed_is_served(folder: Path) -> None:
    """The socket lets everybody connect, and those who are listed send."""
    told, mode, num_forbidden, stored = await visited(
        folder / "run" / "feed.sock", allow_uids=(NOBODY,)
    )
    assert (told["type"], told["stored"]) == ("ack", 1)
    assert (mode, num_forbidden, stored) == (0o666, 0, 1)
    assert (folder / "run").stat().st_mode & 0o777 == 0o711


@only_root
async def test_a_list_of_users_keeps_the_others_out(folder: Path) -> None:
    """Though its mode lets them connect."""
    told, _, num_forbidden, stored = await visited(folder / "feed.sock", allow_uids=(12_345,))
    assert (told["code"], num_forbidden, stored) == ("forbidden", 1, 0)


async def test_a_folder_that_others_cannot_enter_is_refused(folder: Path) -> None:
    """A list of users that could never connect is a mistake in the config; no socket is left."""
    folder.chmod(0o700)
    async with open_intake(None) as intake:
        source = SocketSource(
            folder / "feed.sock", intake.sink, scenario="airline", line_max=1_000, allow_uids=(1,)
        )
        with pytest.raises(ConfigError, match=f"cannot enter {folder}") as caught:
            async with source.open():
                pass
    assert "runtime_dir" in (caught.value.advice or "")
    assert list(folder.iterdir()) == []


def send_as_nobody(path: Path) -> bytes:
    """What a process of the user nobody hears after an event."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                with contextlib.suppress(OSError):  # it may have been turned away already
                    peer.sendall(line(action()) + b"\n")
                os.write(write_end, peer.recv(1_000) or b"null")
                os._exit(0)
        finally:
            os._exit(1)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return said
