"""The same events at every door: equal rows, and a repeat at another door is known."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from honed.client import AsyncHonedClient
from honed.config import load_config
from honed.daemon import LearningDaemon
from honed.domain.events import format_event, parse_event
from honed.ports import RecordFilter
from honed.sources import BusSource, EventBus, FileSource, HttpSource
from honed.stores import SqlStore, open_store
from tests.feed_parts import action, call, failure, line, open_feed, success

pytestmark = pytest.mark.anyio

EVENTS = [
    parse_event(line(event))
    for event in (
        call(task_id="t1", group_id="g", receipt_id="r1", tags={"desk": "zwei ü"}),
        action(task_id="t1", session_id="s", context={"observation": "a cat"}, timestamp_ms=7),
        success(0.5, task_id="t1", source="judge"),
        action(task_id="t2", name="done", result={"success": False, "error": "no"}),
        failure("reopened", receipt_id="r1"),
    )
]
LINES = [format_event(event) for event in EVENTS]
"""As every door gets them: what is repeated is recognised by its bytes."""


async def rows(store: SqlStore) -> list[dict[str, Any]]:
    """All records, without what tells when and in which order they came."""
    listed = await store.records.list(RecordFilter())
    found = [record async for record in store.records.query(RecordFilter())]
    return sorted(
        (
            {name: getattr(row, name) for name in row.__struct_fields__[1:-1]}
            | {name: getattr(record, name) for name in record.__struct_fields__}
            | {"record_id": None, "timestamp_ms": 0}
            for row, record in zip(listed, found, strict=True)
        ),
        key=lambda row: str(row["event_id"]),
    )


async def until(store: SqlStore, count: int) -> None:
    with anyio.fail_after(30):
        while await store.records.count(RecordFilter()) < count:
            await anyio.sleep(0.01)


@asynccontextmanager
async def web(sink: Any) -> AsyncIterator[str]:
    """An HTTP door; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with HttpSource(listener, sink, line_max=1 << 20).open():
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/events"


async def post(url: str) -> None:
    headers = {"content-type": "application/x-ndjson"}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.post(url, content=b"\n".join(LINES), headers=headers)
    assert answer.json()["rejected"] == []


def run_ingest(
    folder: Path, *arguments: str, text: bytes | None = None, status: int = 0
) -> dict[str, Any]:
    """Run `honed ingest --json`."""
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "honed", "ingest", "--json", *arguments],
        env=kept | {"HONED__DATA_DIR": str(folder / "data"), "HONED__SCENARIO": "airline"},
        input=text,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.feature("SE-145")
async def test_every_door_gives_equal_rows(tmp_path: Path) -> None:
    """Five doors, five stores, the same records."""
    found: dict[str, list[dict[str, Any]]] = {}
    for door in ("socket", "http", "files", "bus"):
        folder = tmp_path / door
        folder.mkdir()
        async with open_feed(folder) as intake:
            match door:
                case "socket":
                    async with AsyncHonedClient(folder / "feed.sock") as client:
                        await client.send_lines(LINES)
                case "http":
                    async with web(intake.sink) as url:
                        await post(url)
                case "files":
                    inbox = folder / "inbox"
                    source = FileSource(inbox, [], intake.store, intake.sink, line_max=1 << 20)
                    async with source.open():
                        (inbox / "a.jsonl").write_bytes(b"".join(each + b"\n" for each in LINES))
                        await until(intake.store, len(LINES))
                case "bus":
                    bus = EventBus()
                    async with BusSource(bus, intake.sink).open():
                        bus.publish_batch(EVENTS)
            found[door] = await rows(intake.store)
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(LINES))
    run_ingest(tmp_path, str(tmp_path / "events.jsonl"))
    async with open_store(f"sqlite:///{tmp_path / 'data' / 'honed.db'}") as store:
        found["command line"] = await rows(store)
    assert len(found["socket"]) == len(LINES)
    for door, told in found.items():
        assert told == found["socket"], door


@pytest.mark.feature("SE-145")
async def test_a_repeat_at_another_door_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One daemon with all doors open stores each event once, whichever came first."""
    monkeypatch.delenv("HONED_HTTP_TOKEN", raising=False)
    config = tmp_path / "honed.toml"
    config.write_text(
        f'scenario = "airline"\ndata_dir = "{tmp_path / "data"}"\n[apply]\nkind = "none"\n'
        f'[events]\nhttp = "127.0.0.1:0"\ninbox = "{tmp_path / "inbox"}"\nsettle = "0s"\n'
    )
    bus = EventBus("swarm")
    daemon = LearningDaemon(load_config(config), buses=[bus])
    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await daemon.run(ready=ready.set)

        async def known(times: int) -> None:
            with anyio.fail_after(30):
                while (await daemon.status())["duplicates"] < times * len(LINES):
                    await anyio.sleep(0.01)

        tasks.start_soon(run)
        with anyio.fail_after(30):
            await ready.wait()
        bus.publish_batch(EVENTS)
        with anyio.fail_after(30):
            while (await daemon.status())["records"] < len(LINES):
                await anyio.sleep(0.01)
        async with AsyncHonedClient(tmp_path / "data" / "feed.sock") as client:
            assert (await client.send_lines(LINES)).duplicates == len(LINES)
        await post(f"http://{(await daemon.status())['sources']['http']['address']}/events")
        await known(2)
        (tmp_path / "inbox" / "a.jsonl").write_bytes(b"".join(each + b"\n" for each in LINES))
        await known(3)
        text = b"\n".join([*LINES, b'{"type": "action"}'])
        told = await anyio.to_thread.run_sync(lambda: run_ingest(tmp_path, "-", text=text))
        assert (told["stored"], told["duplicates"]) == (0, len(LINES))
        assert [(bad["line"], bad["code"]) for bad in told["rejected"]] == [(6, "invalid")]
        bus.publish_batch(EVENTS)
        await known(5)
        status = await daemon.status()
        assert (status["records"], status["conflicts"]) == (len(LINES), 0)
        assert status["sources"]["swarm"] == {"waiting": 0, "lagged": 0, "rejected": 0}
        daemon.request_stop()


async def test_events_on_the_command_line_become_episodes_without_a_daemon(tmp_path: Path) -> None:
    """Bad lines are named with their place; with nothing else the exit status is 1."""
    text = b"\n".join(LINES[:3]) + b'\nnonsense\n{"type": "outcome"}\n'
    told = run_ingest(tmp_path, "-", text=text)
    assert (told["stored"], told["num_rejected"]) == (3, 2)
    assert [bad["line"] for bad in told["rejected"]] == [4, 5]
    assert run_ingest(tmp_path, "-", text=text)["duplicates"] == 3
    async with open_store(f"sqlite:///{tmp_path / 'data' / 'honed.db'}") as store:
        assert (await store.stats()).num_episodes == 1
    assert run_ingest(tmp_path, "-", text=b"nonsense\n", status=1)["num_rejected"] == 1
