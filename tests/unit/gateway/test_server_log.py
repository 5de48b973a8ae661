"""A server's log stays small while the server writes on, and keeps what is worth a second look."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import anyio
import pytest

from honed.config import ServeSection
from honed.gateway import server_log
from honed.gateway.lane import Lane
from tests.unit.gateway.stub import remember


def test_small_log_is_left_alone(tmp_path: Path) -> None:
    """Nothing is copied."""
    path = tmp_path / "tiny-blue.log"
    path.write_text("0.1 E small\n")
    assert not server_log.cut(path)
    assert path.read_text() == "0.1 E small\n"
    assert list(tmp_path.iterdir()) == [path]


def test_program_that_writes_on_begins_the_file_anew(tmp_path: Path) -> None:
    """After the cut the file holds what came after it, from its first byte; `.1` what came before."""
    path = tmp_path / "tiny-blue.log"
    writer = "import sys\nfor line in sys.stdin:\n    sys.stderr.write(line); sys.stderr.flush(); print()"
    with (
        server_log.begin(path) as stderr,
        subprocess.Popen(
            [sys.executable, "-c", writer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None
        for line in ("0.1 E before\n", "0.2 E after\n"):
            program.stdin.write(line)
            program.stdin.flush()
            program.stdout.readline()
            if "before" in line:
                assert server_log.cut(path, max_bytes=5)
        program.stdin.close()
    assert path.read_bytes() == b"0.2 E after\n"
    assert (tmp_path / "tiny-blue.log.1").read_bytes() == b"0.1 E before\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tiny-blue.log", "tiny-blue.log.1"]
    assert server_log.faults(path) == "0.2 E after"


def test_log_without_room_for_a_copy_is_cut_all_the_same(tmp_path: Path) -> None:
    """What fills a disk goes first."""
    path = tmp_path / "tiny-blue.log"
    path.write_text("0.1 E before\n")
    (tmp_path / "tiny-blue.log.tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        server_log.cut(path, max_bytes=5)
    assert path.read_text() == ""


def test_log_that_is_being_cut_is_left_to_whoever_does(tmp_path: Path) -> None:
    """Two copies at a time would mix, and what came after the first one's cut would be lost by the second's."""
    path = tmp_path / "tiny-blue.log"
    path.write_text("0.1 E before\n")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not server_log.cut(path, max_bytes=5)
    assert path.read_text() == "0.1 E before\n"
    assert server_log.cut(path, max_bytes=5)
    assert not server_log.cut(path, max_bytes=5)
    assert (tmp_path / "tiny-blue.log.1").read_text() == "0.1 E before\n"


def test_next_server_that_begins_within_a_cut_keeps_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former one's is put aside whole, by its beginning; the cut leaves both alone."""
    path = tmp_path / "tiny-blue.log"
    path.write_text("0.1 E of the former\n")
    copy = shutil.copyfileobj

    def copy_slowly(lines: IO[bytes], aside: IO[bytes]) -> None:
        copy(lines, aside)
        with server_log.begin(path) as stderr:
            stderr.write(b"0.2 E of the next\n")

    monkeypatch.setattr(shutil, "copyfileobj", copy_slowly)
    assert not server_log.cut(path, max_bytes=5)
    assert path.read_text() == "0.2 E of the next\n"
    assert (tmp_path / "tiny-blue.log.1").read_text() == "0.1 E of the former\n"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.anyio
async def test_log_of_a_running_server_is_cut(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane looks after the logs of its servers."""
    monkeypatch.setattr(server_log, "CHECK_EVERY_S", 0.01)
    lane = Lane("tiny", ServeSection(ctx_size=256, parallel=1, threads=1), tmp_path, remember)
    lane.base_gguf = tiny_gguf
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lane.run)
        with anyio.fail_after(60):
            while lane.backend is None:
                await anyio.sleep(0.01)
            path = lane.backend.server.plan.log_path
            with path.open("ab") as log:
                log.write(b"x" * server_log.MAX_BYTES)
            while path.stat().st_size >= server_log.MAX_BYTES:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert (tmp_path / "tiny-blue.log.1").stat().st_size >= server_log.MAX_BYTES
