"""A database that takes too much room: the oldest goes, events go on coming in, the disk gets it back."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from honed.config import load_config
from honed.domain.outcome import Failure
from honed.errors import ConfigError
from honed.keeping import Keeper
from honed.keeping.cleanup import Cleaned, Cleanup, KeepFor
from honed.ports import EpisodeFilter
from honed.stores import SqlStore, open_store
from tests.feed_parts import call, close_all, incoming, success
from tests.unit.keeping.test_cleanup import NOW, tasks, train_on_all

pytestmark = pytest.mark.anyio
TEXT = "conversation " * 1_000
"""13 KB."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(f"sqlite:///{tmp_path / 'honed.db'}") as opened:
        yield opened


async def attempts(
    store: SqlStore, *names: str, labelled: bool = True, at_ms: int = 10, **fields: Any
) -> None:
    """One episode of a dozen kilobytes for each name, the first one oldest."""
    for n, name in enumerate(names):
        turn = {"role": "user", "content": f"{name} {TEXT}"}
        events = [call(task_id=name, messages=[turn], **fields)]
        events += [success(task_id=name)] if labelled else []
        await store.append([incoming(event, received_ms=at_ms + n) for event in events])
    await close_all(store, now_ms=NOW)


async def used(store: SqlStore) -> int:
    found = await store.keeping.room()
    assert found is not None
    return found.used_bytes


async def clean(
    store: SqlStore, folder: Path, max_bytes: int, *, untrained: bool = False, dry: bool = False
) -> Cleaned:
    keep = KeepFor(max_bytes=max_bytes, max_bytes_untrained=untrained)
    cleanup = Cleanup(
        store,
        store.keeping,
        scenario="airline",
        keep_for=keep,
        runs_dir=folder / "runs",
        adapters_dir=folder / "adapters",
    )
    return await cleanup.clean(now_ms=NOW, dry=dry)


async def test_the_oldest_that_was_trained_on_goes_until_the_rest_fits(
    store: SqlStore, tmp_path: Path
) -> None:
    """Whatever its age, with an outcome or without; no more than is needed, and the file shrinks by it."""
    await attempts(store, *[f"seen-{n:03}" for n in range(150)])
    await attempts(store, *[f"open-{n:03}" for n in range(50)], labelled=False, at_ms=1_000)
    await train_on_all(store)
    await attempts(store, *[f"unseen-{n:03}" for n in range(20)], at_ms=1)
    before = await used(store)
    looked = await clean(store, tmp_path, 1_500_000, dry=True)
    assert looked.over_bytes == before - 1_500_000
    assert (looked.episodes, looked.room_episodes) == (0, 200)
    done = await clean(store, tmp_path, 1_500_000)
    assert 1_300_000 < await used(store) <= 1_500_000
    assert (done.over_bytes, done.episodes) == (0, 220 - len(await tasks(store)))
    left = {str(task) for task in await tasks(store)}
    assert {f"unseen-{n:03}" for n in range(20)} <= left
    seen = sorted(task for task in left if task.startswith("seen"))
    assert not seen or seen == [f"seen-{n:03}" for n in range(150 - len(seen), 150)]
    assert done.given_back_bytes > 0
    size = (tmp_path / "honed.db").stat().st_size
    assert size == await used(store)  # nothing free is left in it
    assert (await clean(store, tmp_path, 1_500_000)).episodes == 0


async def test_what_no_training_has_seen_stays_unless_told_so(
    store: SqlStore, tmp_path: Path
) -> None:
    """Not even when the limit is passed; nor an episode with a verdict that the training did not see."""
    await attempts(store, "changed", "seen")
    await train_on_all(store)
    [changed] = await store.list_episodes(EpisodeFilter(task_id="changed"))
    await store.set_outcome(changed.id, Failure("reopened"))
    await attempts(store, "new")
    await attempts(store, "open", labelled=False)
    looked = await clean(store, tmp_path, 1, dry=True)
    assert (looked.room_episodes, looked.room_records) == (1, 2)
    done = await clean(store, tmp_path, 1)
    assert await tasks(store) == {"changed", "new", "open"}
    looked = await clean(store, tmp_path, 1, dry=True)
    assert (looked.over_bytes > 0, looked.room_records) == (True, 0)
    assert done.over_bytes == await used(store) - 1
    done = await clean(store, tmp_path, 1, untrained=True)
    assert await tasks(store) == set()
    assert done.over_bytes > 0  # tables have a page each, with nothing in it


async def test_records_of_no_attempt_go_first(store: SqlStore, tmp_path: Path) -> None:
    """Probes and evaluations before anything that was learned from."""
    await attempts(store, *[f"seen-{n}" for n in range(20)])
    await train_on_all(store)
    turn = {"role": "user", "content": TEXT}
    probes = [call(purpose="probe", messages=[turn]) for _ in range(100)]
    await store.append([incoming(probe) for probe in probes])
    done = await clean(store, tmp_path, await used(store) - 300_000)
    assert (done.episodes, len(await tasks(store))) == (0, 20)
    assert 20 <= done.records < 100


async def test_events_come_in_while_room_is_made(store: SqlStore, tmp_path: Path) -> None:
    """Removing and giving back are done in steps, between which an event is committed."""
    await attempts(store, *[f"seen-{n:03}" for n in range(300)])
    await train_on_all(store)
    slowest = 0.0
    told: list[int] = []

    async def send() -> None:
        nonlocal slowest
        while True:
            begun = anyio.current_time()
            await store.append([incoming(call(purpose="probe"), received_ms=NOW)])
            slowest = max(slowest, anyio.current_time() - begun)
            told.append(1)
            await anyio.sleep(0)

    async with anyio.create_task_group() as sending:
        sending.start_soon(send)
        await clean(store, tmp_path, 1_000_000)
        sending.cancel_scope.cancel()
    assert len(told) >= 5
    assert slowest < 2.0


async def test_an_older_database_gives_back_once_it_was_compacted(tmp_path: Path) -> None:
    """It was made without the bookkeeping that this needs; until then its room is used again."""
    path = tmp_path / "honed.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA page_size = 8192")
    db.execute("CREATE TABLE old (x)")
    db.close()
    async with open_store(f"sqlite:///{path}") as store:
        await attempts(store, *[f"seen-{n:03}" for n in range(100)])
        await train_on_all(store)
        done = await clean(store, tmp_path, 1_000_000)
        assert done.given_back_bytes == 0
        assert await store.keeping.compact() > 300_000
        await attempts(store, *[f"more-{n:03}" for n in range(100)])
        assert (await clean(store, tmp_path, 1_000_000, untrained=True)).given_back_bytes > 300_000


async def test_the_log_says_how_it_goes(store: SqlStore, tmp_path: Path) -> None:
    """How far it is, what went, and that what is left takes too much all the same."""
    await attempts(store, *[f"seen-{n:03}" for n in range(60)])
    await train_on_all(store)
    await attempts(store, *[f"new-{n:03}" for n in range(20)])
    config = tmp_path / "honed.toml"
    config.write_text(
        f'scenario = "airline"\ndata_dir = "{tmp_path}"\n[keep]\nmax_size = "100KiB"\n'
    )
    with capture_logs() as logs:
        await Keeper(load_config(config), store, store.keeping).cleanup(dry=False)
    told = {entry["event"]: entry for entry in logs}
    assert told["cleanup.progressed"]["used_bytes"] > 100 << 10
    assert told["data.cleaned"]["episodes"] == 60
    assert told["store.too_large"]["over_bytes"] > 0


async def test_another_database_is_refused(store: SqlStore, tmp_path: Path) -> None:
    """Its files are not this program's to measure."""
    config = tmp_path / "honed.toml"
    config.write_text(
        f'scenario = "airline"\ndata_dir = "{tmp_path}"\n'
        'database = "postgresql://localhost/honed"\n[keep]\nmax_size = "1GiB"\n'
    )
    with pytest.raises(ConfigError, match="max_size"):
        Keeper(load_config(config), store, store.keeping)
