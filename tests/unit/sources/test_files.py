"""Files that are followed: an inbox and logs of other programs."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from honed.sources.files import CHUNK, FileSource
from tests.feed_parts import Intake, action, call, line, open_intake, success

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def following(
    folder: Path, *files: Path, line_max: int = 1 << 20
) -> AsyncIterator[tuple[Intake, FileSource]]:
    """The inbox `folder / "inbox"` and some files, with a database in the same folder."""
    async with open_intake(folder / "honed.db") as intake:
        source = FileSource(folder / "inbox", files, intake.store, intake.sink, line_max=line_max)
        async with source.open():
            yield intake, source


async def stored(intake: Intake, count: int) -> int:
    """Wait until that many records are there; how many there are."""
    with anyio.move_on_after(10):
        while (await intake.store.stats()).num_records < count:
            await anyio.sleep(0.01)
    return (await intake.store.stats()).num_records


def write(path: Path, *events: dict[str, object], mode: str = "ab") -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.write(b"".join(line(event) + b"\n" for event in events))


async def test_a_file_in_the_inbox_becomes_an_episode(tmp_path: Path) -> None:
    """Whether it was there before or comes while the daemon runs."""
    write(tmp_path / "inbox" / "early.jsonl", call(task_id="t1"), success(task_id="t1"))
    (tmp_path / "inbox" / "notes.txt").write_text("not for us\n")
    async with following(tmp_path) as (intake, _):
        with anyio.fail_after(60):
            assert (await intake.episodes.receive()).task_id == "t1"
        write(tmp_path / "inbox" / "late.jsonl", call(task_id="t2"), success(task_id="t2"))
        with anyio.fail_after(60):
            assert (await intake.episodes.receive()).task_id == "t2"


async def test_a_line_counts_once_it_has_its_newline(tmp_path: Path) -> None:
    """A writer that is in the middle of a line is waited for."""
    path = tmp_path / "swarm.jsonl"
    whole = line(action(task_id="t2"))
    async with following(tmp_path, path) as (intake, source):
        write(path, action())
        with path.open("ab") as file:
            file.write(whole[:40])
        assert await stored(intake, 1) == 1
        with path.open("ab") as file:
            file.write(whole[40:] + b"\n")
        assert await stored(intake, 2) == 2
        assert source.num_rejected == 0


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """The log says so once, and only of that one: a mistyped name is not passed over without a word."""
    here, later = tmp_path / "here.jsonl", tmp_path / "later.jsonl"
    write(here, action())
    with capture_logs() as logs:
        async with following(tmp_path, here, later) as (intake, _):
            assert await stored(intake, 1) == 1
            write(later, action(task_id="t2"))
            assert await stored(intake, 2) == 2
    told = [each["path"] for each in logs if each["event"] == "file.awaited"]
    assert told == [str(later)]


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """Events without an id would be doubled by reading them again: none is."""
    path = tmp_path / "swarm.jsonl"
    events = [action() for _ in range(30)]
    for event in events:
        del event["event_id"]
    write(path, *events[:20])
    async with following(tmp_path, path) as (intake, _):
        assert await stored(intake, 20) == 20
    write(path, *events[20:])
    async with following(tmp_path, path) as (intake, _):
        assert await stored(intake, 30) == 30
        write(path, action())
        assert await stored(intake, 31) == 31


def kept_by_copying(path: Path) -> None:
    """As logrotate's copytruncate does it."""
    path.with_suffix(".1").write_bytes(path.read_bytes())
    os.truncate(path, 0)


def moved_away(path: Path) -> None:
    """As logrotate does it by default; the writer makes a new file."""
    path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize("rotate", [kept_by_copying, moved_away])
@pytest.mark.parametrize("is_running", [True, False])
async def test_a_rotated_file_loses_and_doubles_nothing(
    tmp_path: Path, rotate: Callable[[Path], None], is_running: bool
) -> None:
    """Whether the daemon runs meanwhile or not; the old file is read to its end."""
    path = tmp_path / "logs" / "swarm.jsonl"
    events = [action(tick=n) for n in range(40)]
    for event in events:
        del event["event_id"]
    write(path, *events[:10])
    if is_running:
        async with following(tmp_path, path) as (intake, _):
            assert await stored(intake, 10) == 10
            rotate(path)
            write(path, *events[10:25])
            assert await stored(intake, 25) == 25
        return
    async with following(tmp_path, path) as (intake, _):
        assert await stored(intake, 10) == 10
    if rotate is moved_away:
        write(path, *events[10:15])  # after the stop, before the rotation
    rotate(path)
    write(path, *events[15:40])
    async with following(tmp_path, path) as (intake, _):
        wanted = 40 if rotate is moved_away else 35
        assert await stored(intake, wanted) == wanted
        await anyio.sleep(0.3)
        assert await stored(intake, wanted) == wanted


async def test_a_file_that_was_cut_and_filled_again_is_a_new_one(tmp_path: Path) -> None:
    """Also when it has become longer than what was read."""
    path = tmp_path / "swarm.jsonl"
    write(path, action())
    async with following(tmp_path, path) as (intake, _):
        assert await stored(intake, 1) == 1
    write(path, *[action() for _ in range(5)], mode="wb")
    async with following(tmp_path, path) as (intake, _):
        assert await stored(intake, 6) == 6


async def test_bad_lines_are_passed_over_counted_and_told(tmp_path: Path) -> None:
    """With the file and the place; a line longer than the limit is never held whole."""
    path = tmp_path / "inbox" / "swarm.jsonl"
    write(path, action(), action(tick="soon"), action(target="x" * 3 * CHUNK), action())
    with capture_logs() as logs:
        async with following(tmp_path, line_max=CHUNK + 5) as (intake, source):
            assert await stored(intake, 2) == 2
            with anyio.fail_after(60):
                while source.num_rejected < 2:
                    await anyio.sleep(0.01)
    told = [entry for entry in logs if entry["event"] == "line.rejected"]
    assert sum(entry["count"] for entry in told) == 2
    assert told[0]["path"] == str(path)
    assert "tick" in told[0]["first"]


async def test_a_line_longer_than_a_chunk_is_read_whole(tmp_path: Path) -> None:
    """Chunks are how files are read, not what a line may be."""
    path = tmp_path / "inbox" / "swarm.jsonl"
    write(path, action(target="x" * (2 * CHUNK + 7)), action())
    async with following(tmp_path) as (intake, source):
        assert await stored(intake, 2) == 2
        assert source.num_rejected == 0


async def test_the_position_of_a_file_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """A new one under its name begins at its beginning."""
    path = tmp_path / "inbox" / "swarm.jsonl"
    write(path, action())
    async with following(tmp_path) as (intake, _):
        assert await stored(intake, 1) == 1
        assert await intake.store.file_position(str(path)) is not None
        path.unlink()
        write(path.with_name("other.jsonl"), action())
        assert await stored(intake, 2) == 2
        assert await intake.store.file_position(str(path)) is None


async def test_a_kill_between_two_commits_doubles_nothing(tmp_path: Path) -> None:
    """The position stands in the transaction of its events, also where these have no ids."""
    path = tmp_path / "inbox" / "swarm.jsonl"
    events = [action(target="x" * 1000) for _ in range(2_000)]
    for event in events:
        del event["event_id"]
    write(path, *events)
    code = (
        "import anyio, os, sys; from pathlib import Path\n"
        "from tests.unit.sources.test_files import following\n"
        "async def main():\n"
        "    async with following(Path(sys.argv[1])) as (intake, _):\n"
        "        while (await intake.store.stats()).num_records < int(sys.argv[2]):\n"
        "            await anyio.sleep(0.001)\n"
        "        os.kill(os.getpid(), 9)\n"
        "anyio.run(main)"
    )
    for wanted in ("200", "900"):
        died = await anyio.run_process(
            [sys.executable, "-c", code, str(tmp_path), wanted],
            check=False,
            cwd=Path(__file__).parents[3],
            stdout=subprocess.DEVNULL,
        )
        assert died.returncode == -9
    async with following(tmp_path) as (intake, _):
        assert await stored(intake, 2_000) == 2_000
        await anyio.sleep(0.1)
        assert await stored(intake, 2_000) == 2_000
