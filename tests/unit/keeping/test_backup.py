"""A backup is whole, private and checked; restoring deletes nothing."""

import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from honed.domain.records import ActionRecord
from honed.errors import HonedError, StoreError
from honed.keeping import Backup, Restored, restore_backup, write_backup
from honed.ports import EpisodeFilter
from honed.stores import open_store
from honed.stores.copies import (
    check_copy,
    copy_database,
    database_files,
    has_records,
    move_adapters,
)
from tests.feed_parts import action, close_all, incoming, success
from tests.unit.keeping.test_forgetting import model

pytestmark = pytest.mark.anyio


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'honed.db'}"


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def back_up(folder: Path, target: Path, *, with_adapters: bool = False) -> Backup:
    return write_backup(
        target,
        scenario="airline",
        data_dir=folder,
        copy=lambda copy, told: copy_database(url(folder), copy, told),
        check=check_copy,
        with_adapters=with_adapters,
        on_progress=quiet,
    )


def restore(source: Path, folder: Path, *, scenario: str = "airline") -> Restored:
    return restore_backup(
        source,
        scenario=scenario,
        data_dir=folder,
        database_path=folder / "honed.db",
        existing=database_files(url(folder)),
        check=check_copy,
        move_adapters=move_adapters,
        on_progress=quiet,
    )


async def make(folder: Path, task: str = "t1") -> None:
    """A data folder with an episode and two adapters, one of them published."""
    async with open_store(url(folder)) as store:
        await store.append([incoming(action(task_id=task)), incoming(success(task_id=task))])
        await close_all(store)
        for number in (1, 2):
            await store.add_model(model(number, ()))
    (folder / "secret.key").write_bytes(task.encode().ljust(32))
    published = folder / "adapters" / "airline@1"
    published.mkdir(parents=True)
    (published / "adapter.gguf").write_text(f"weights of {task}")


async def test_restored_it_is_the_same_elsewhere(tmp_path: Path) -> None:
    """Records, episodes, secret and adapters; what is registered says where the files are now."""
    here, there = tmp_path / "here", tmp_path / "there"
    await make(here)
    made = back_up(here, tmp_path / "b.tar", with_adapters=True)
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    assert (made.records, made.episodes, set(made.adapters)) == (2, 1, {"airline@1", "airline@2"})
    done = restore(tmp_path / "b.tar", there)
    assert (done.moved_to, done.missing_adapters) == (None, ("airline@2",))
    assert (there / "secret.key").read_bytes() == (here / "secret.key").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in there.glob("*.*")} == {0o600}
    async with open_store(url(there)) as store:
        [row] = await store.list_episodes(EpisodeFilter())
        assert type((await store.get_episode(row.id)).records[0]) is ActionRecord
        gguf = (await store.get_model("airline@1")).gguf_path
    assert gguf == str(there / "adapters/airline@1/adapter.gguf")
    assert Path(gguf).read_text() == "weights of t1"


async def test_what_was_there_is_moved_aside_whole(tmp_path: Path) -> None:
    """Store, log, secret and the adapters that the restored store does not know; nothing is deleted."""
    here, there = tmp_path / "here", tmp_path / "there"
    await make(here)
    await make(there, "t2")
    (there / "adapters" / "airline@9").mkdir()
    back_up(here, tmp_path / "b.tar")
    assert has_records(url(there))
    done = restore(tmp_path / "b.tar", there)
    assert done.moved_to is not None
    aside = Path(done.moved_to)
    assert (aside / "secret.key").read_bytes().startswith(b"t2")
    assert (aside / "adapters" / "airline@9").is_dir()
    async with open_store(url(aside)) as store:
        assert await store.count_episodes(EpisodeFilter(task_id="t2")) == 1
    async with open_store(url(there)) as store:
        assert await store.count_episodes(EpisodeFilter(task_id="t1")) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"SQLite format 3") + 20_000
    content[place] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_secret(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"t1".ljust(32), b"t9".ljust(32)))


def climb(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"secret.key", b"../../xkey"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [flip, cut, replace_secret, climb, empty])
async def test_a_spoilt_backup_changes_nothing(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """It is told as no whole backup, and the data folder is as it was."""
    here, there = tmp_path / "here", tmp_path / "there"
    await make(here)
    await make(there, "t2")
    back_up(here, tmp_path / "b.tar")
    spoil(tmp_path / "b.tar")
    before = sorted(there.rglob("*"))
    with pytest.raises(HonedError, match="no whole backup"):
        restore(tmp_path / "b.tar", there)
    assert sorted(there.rglob("*")) == before
    assert not list(tmp_path.glob("xkey"))


async def test_a_backup_replaces_no_file_and_leaves_none_half_written(tmp_path: Path) -> None:
    """Neither a former backup nor a remnant of one that failed."""
    here = tmp_path / "here"
    await make(here)
    (tmp_path / "old.tar").write_text("old")
    with pytest.raises(HonedError, match="exists"):
        back_up(here, tmp_path / "old.tar")
    (here / "secret.key").unlink()
    with pytest.raises(StoreError, match=r"secret.*missing"):
        back_up(here, tmp_path / "new.tar")
    with pytest.raises(HonedError, match="cannot be read or written"):
        back_up(here, tmp_path / "nowhere" / "new.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "old.tar"]


async def test_of_another_scenario_it_is_refused(tmp_path: Path) -> None:
    """The episodes would be nobody's."""
    await make(tmp_path / "here")
    back_up(tmp_path / "here", tmp_path / "b.tar")
    with pytest.raises(HonedError, match=r"airline.*hotel"):
        restore(tmp_path / "b.tar", tmp_path / "there", scenario="hotel")


async def test_a_copy_under_writes_is_one_moment(tmp_path: Path) -> None:
    """Commits between two steps neither get into the copy nor start it again."""
    async with open_store(url(tmp_path)) as store:
        for n in range(60):
            big = [incoming(action(task_id=f"t{n}", target="x" * 10_000)) for _ in range(20)]
            await store.append(big)
        written: list[int] = []
        done: list[int] = []

        def told(at: int, of: int) -> None:
            done.append(at)
            anyio.from_thread.run(add)

        async def add() -> None:
            await store.append([incoming(action(task_id="later"))])
            written.append(1)

        await anyio.to_thread.run_sync(copy_database, url(tmp_path), tmp_path / "copy.db", told)
    assert len(written) >= 2
    assert done == sorted(done)
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("SELECT count(*) FROM records").fetchone() == (1_200,)
    db.close()


async def test_the_file_is_a_tar_that_other_tools_read(tmp_path: Path) -> None:
    """With the manifest first."""
    await make(tmp_path / "here")
    back_up(tmp_path / "here", tmp_path / "b.tar", with_adapters=True)
    with tarfile.open(tmp_path / "b.tar") as tar:
        names = tar.getnames()
    assert names == ["manifest.json", "honed.db", "secret.key", "adapters/airline@1/adapter.gguf"]
