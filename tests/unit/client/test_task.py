"""Tasks and recorded functions, with both kinds of client."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import anyio
import pytest

from honed.client import AsyncHonedClient, HonedClient, Task, current_task, recorded
from honed.domain.outcome import Failure, Success
from honed.domain.records import ActionRecord
from tests.feed_parts import open_feed

pytestmark = pytest.mark.anyio


class Notebook:
    """Stands where a client's `send` stands: keeps the events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def send(self, *events: dict[str, Any]) -> None:
        self.events += events

    def task(self, task_id: str | None = None, **fields: Any) -> Task[None]:
        return Task(self.send, task_id, **fields)


@recorded
def search(query: str) -> str:
    """Find something."""
    if not query:
        raise LookupError("nothing to look for")
    return f"found {query}"


@recorded
async def fetch(page: str) -> str:
    await asyncio.sleep(0)
    return f"page {page}"


async def test_a_task_of_the_async_client_becomes_an_episode(tmp_path: Path) -> None:
    """Actions, a recorded coroutine and the verdict, under one id and one group."""
    async with open_feed(tmp_path) as feed:
        client = AsyncHonedClient(tmp_path / "feed.sock")
        async with client, client.task("t1", group_id="g1") as task:
            await task.record("look")
            assert await fetch("one") == "page one"
            await task.done(score=0.5)
        with anyio.fail_after(60):
            made = await feed.episodes.receive()
    assert (made.task_id, made.group_id, made.outcome) == ("t1", "g1", Success(0.5))
    rows = [record for record in made.records if isinstance(record, ActionRecord)]
    assert [(row.action, row.tick) for row in rows] == [("look", 1), ("fetch", 2)]


async def test_an_exception_that_ends_a_task_is_its_failure(tmp_path: Path) -> None:
    """The exception goes on; the verdict names it."""

    def agent() -> None:
        with HonedClient(tmp_path / "feed.sock") as client, client.task("t1") as task:
            task.record("look")
            raise TimeoutError("too slow")

    async with open_feed(tmp_path) as feed:
        with pytest.raises(TimeoutError):
            await anyio.to_thread.run_sync(agent)
        with anyio.fail_after(60):
            made = await feed.episodes.receive()
    assert made.outcome == Failure("TimeoutError: too slow")


def test_a_recorded_function_tells_result_or_error() -> None:
    """Its arguments are not kept, its exception is passed on, its name and docstring stay."""
    notes = Notebook()
    with notes.task("t1"):
        assert search("keys") == "found keys"
        with pytest.raises(LookupError):
            search("")
    first, second = notes.events
    assert (first["action"], first["result"]) == (
        "search",
        {"success": True, "output": "found keys"},
    )
    assert second["result"] == {"success": False, "error": "LookupError: nothing to look for"}
    assert (search.__name__, search.__doc__) == ("search", "Find something.")


def test_outside_a_task_nothing_is_recorded() -> None:
    """The function works as ever."""
    assert current_task() is None
    assert search("keys") == "found keys"


def test_the_innermost_task_takes_the_actions() -> None:
    """A helper's attempt inside an agent's keeps its own; each counts its own ticks."""
    notes = Notebook()
    with notes.task("outer"):
        search("one")
        with notes.task("inner"):
            search("two")
        search("three")
    assert [(e["task_id"], e["tick"]) for e in notes.events] == [
        ("outer", 1),
        ("inner", 1),
        ("outer", 2),
    ]


def test_a_task_that_was_judged_is_not_judged_again_by_an_exception() -> None:
    """`done` has the last word; a cancelled attempt gets none."""
    notes = Notebook()
    with contextlib.suppress(RuntimeError), notes.task("t1") as task:
        task.done(success=True)
        raise RuntimeError("after the fact")
    with pytest.raises(KeyboardInterrupt), notes.task("t2"):
        raise KeyboardInterrupt
    assert [event["outcome"]["type"] for event in notes.events] == ["success"]


async def test_a_plain_function_in_an_async_task_says_that_it_is_not_recorded() -> None:
    """Nothing could wait for its acknowledgement there."""
    client = AsyncHonedClient("nowhere.sock")
    async with client.task("t1"):
        with pytest.warns(RuntimeWarning, match="search is a plain function"):
            assert search("keys") == "found keys"
