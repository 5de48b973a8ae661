"""The database server dies under load and comes back: nothing that was acknowledged is gone."""

import random
from collections.abc import Iterator

import anyio
import pytest

from honed.errors import StoreError
from honed.ports import IncomingEvent
from honed.stores import SqlStore, open_store
from honed.stores.postgres import server as server_module
from honed.stores.postgres import writing
from tests.feed_parts import action, close_all, incoming
from tests.postgres import PostgresServer, fetch

pytestmark = pytest.mark.anyio
CLIENTS = 8


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server that may be killed: what it has committed outlives its processes, as with fsync a power cut."""
    made = PostgresServer("fsync=off", "shared_buffers=32MB")
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Client:
    """Sends events in batches and sends again what was not acknowledged, as the real ones do."""

    def __init__(self, store: SqlStore, number: int) -> None:
        self._store = store
        self._number = number
        self.acknowledged: list[str] = []
        self.refusals: dict[str, str | None] = {}

    async def send(self, stop: anyio.Event) -> None:
        """Until told to stop, and until the last batch is acknowledged."""
        sent = 0
        while not stop.is_set():
            size = random.randint(1, 20)
            batch = [
                incoming(action(task_id=f"c{self._number}-{(sent + n) // 50}")) for n in range(size)
            ]
            await self._acknowledged(batch)
            sent += size

    async def _acknowledged(self, batch: list[IncomingEvent]) -> None:
        while True:
            try:
                told = await self._store.append(batch)
            except StoreError as error:
                self.refusals[str(error)] = error.advice
                continue
            assert set(told) <= {"stored", "duplicate"}
            self.acknowledged += [str(event.event_id) for event in batch]
            return


async def load(server: PostgresServer, *, kills: int) -> tuple[int, int]:
    """Send from eight clients while the server is killed; how many were acknowledged and are stored."""
    async with open_store(server.url, alone=True) as store:
        clients = [Client(store, n) for n in range(CLIENTS)]
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.send, stop)
            for _ in range(kills):
                before = sum(len(client.acknowledged) for client in clients)
                while sum(len(client.acknowledged) for client in clients) < before + 200:
                    await anyio.sleep(0.005)
                await anyio.sleep(random.random() / 20)
                server.kill()
                await anyio.to_thread.run_sync(server.start)
            stop.set()
        refusals = {text: told for client in clients for text, told in client.refusals.items()}
        assert all(refusals.values()), refusals
        acknowledged = [id for client in clients for id in client.acknowledged]
        assert len(acknowledged) == len(set(acknowledged))
        stored = [row[0] for row in await fetch(server.url, "SELECT event_id FROM records")]
        assert len(stored) == len(set(stored))
        assert set(acknowledged) == set(stored)
        await close_all(store)  # reads and other writes have come back as well
        links = await fetch(server.url, "SELECT count(*) FROM memberships")
        assert links == [(len(stored),)]
        totals = await fetch(server.url, "SELECT num_records FROM totals")
        assert totals == [(len(stored),)]
    return len(acknowledged), len(stored)


async def test_a_killed_server_costs_nothing_acknowledged(server: PostgresServer) -> None:
    """Five kills at random moments: 0 lost, 0 doubled, and the daemon's store goes on by itself."""
    acknowledged, stored = await load(server, kills=5)
    assert acknowledged == stored >= 1_000


@pytest.mark.long
async def test_a_server_killed_again_and_again(server: PostgresServer) -> None:
    """A hundred kills."""
    acknowledged, stored = await load(server, kills=100)
    assert acknowledged == stored


async def test_a_server_that_stays_away_is_told_and_then_forgiven(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are refused unacknowledged with advice, reads too; when it is back, so is the store."""
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.3)
    async with open_store(server.url, alone=True) as store:
        event = incoming(action())
        assert await store.append([event]) == ["stored"]
        server.kill()
        with pytest.raises(StoreError, match="does not answer") as caught:
            await store.append([incoming(action())])
        assert caught.value.advice is not None
        with pytest.raises(StoreError):
            await store.stats()
        with pytest.raises(StoreError):
            await store.next_model_number("airline")
        server.start()
        assert await store.append([event, incoming(action())]) == ["duplicate", "stored"]
        assert (await store.stats()).num_records == 2
        assert await store.next_model_number("airline") == 1


async def test_a_server_that_hangs_keeps_nobody_for_ever(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither answers nor refuses: what waits is refused unacknowledged, and goes on when it does."""
    for name in ("STATEMENT_S", "_CONNECT_S", "PATIENCE_S"):
        monkeypatch.setattr(server_module, name, 0.5)
    monkeypatch.setattr(writing, "STATEMENT_S", 0.5)
    monkeypatch.setattr(writing, "_CLOSE_S", 0.5)
    async with open_store(server.url, alone=True) as store:
        event = incoming(action())
        assert await store.append([event]) == ["stored"]
        await store.stats()
        server.freeze()
        try:
            with anyio.fail_after(20):
                with pytest.raises(StoreError) as caught:
                    await store.append([incoming(action())])
                assert caught.value.advice is not None
                with pytest.raises(StoreError):
                    await store.stats()
        finally:
            server.freeze(thaw=True)
        with anyio.fail_after(20):
            assert await store.append([event]) == ["duplicate"]
            assert (await store.stats()).num_records in (1, 2)


async def test_a_daemon_that_lost_its_place_ends(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the connection was gone another daemon took the store: two would close each other's groups."""
    monkeypatch.setattr("honed.stores.postgres.writing._FREED_S", 0.2)
    async with open_store(server.url, alone=True) as store:
        await fetch(
            server.url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()",
        )
        async with open_store(server.url, alone=True):
            with pytest.raises(StoreError, match="another daemon works on"):
                await store.append([incoming(action())])
            with pytest.raises(StoreError, match="another daemon works on"):
                await store.watch()
            with pytest.raises(StoreError, match="another daemon works on"):
                await store.next_model_number("airline")
