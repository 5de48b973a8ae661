"""A gateway over real llama-servers in the test's own process, and clients that keep it busy."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio
import httpx
import msgspec

from honed.adapter_files import ADAPTER_GGUF, adapter_digest
from honed.appliers import LlamaServerApplier
from honed.config import Config
from honed.domain.serving import LaneStatus
from honed.domain.trained_model import TrainedModel
from honed.errors import ApplyError
from honed.serve import serve

CHAT = "/v1/chat/completions"
QUESTION = {
    "messages": [{"role": "user", "content": "what is wrong?"}],
    "temperature": 0,
    "ignore_eos": True,
}
ANSWER_TOKENS = 64
"""Long enough that answers are under way at every flip."""


def config(folder: Path, base_gguf: Path, **serve: Any) -> Config:
    """One scenario, `tiny`; `serve` are settings of its section that differ."""
    section: dict[str, Any] = {
        "port": 0,
        "socket": folder / "serve.sock",
        "base_model_path": base_gguf,
        "ctx_size": 256,
        "parallel": 4,
        "threads": 1,
        "drain_timeout": "10s",
    }
    return Config(scenario="tiny", data_dir=folder, serve=section | serve)


def model(folder: Path, *, id: str | None = None) -> TrainedModel:
    """The trained model whose adapter is in `folder`, published as it is now."""
    is_whole = (folder / ADAPTER_GGUF).is_file()
    return TrainedModel(
        id=id or folder.name,
        scenario="tiny",
        run_id="r",
        base_model="b",
        learn_model="chat",
        method="sft",
        adapter_path=str(folder),
        gguf_path=None,
        digest=adapter_digest(folder) if is_whole else "",
        data_digest="",
        episode_ids=(),
        sample_count=0,
        created_at_ms=0,
    )


@dataclass
class Served:
    """A gateway that serves its lane, and its applier."""

    applier: LlamaServerApplier
    address: str

    async def lane(self) -> LaneStatus:
        return (await self.applier.serving()).scenarios["tiny"]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.address, timeout=30)

    def control(self) -> httpx.AsyncClient:
        """For the control API."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.applier._serve_socket))
        return httpx.AsyncClient(transport=transport, base_url="http://honed", timeout=60)

    async def answer(self) -> tuple[str, str]:
        """Version and text of one answer."""
        async with self.client() as client:
            response = await client.post(CHAT, json=QUESTION | {"max_tokens": ANSWER_TOKENS})
        assert response.status_code == 200, response.text
        return response.headers["x-honed-model"], text_of(response)


def text_of(response: httpx.Response) -> str:
    """What was said, streamed or not."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        return str(response.json()["choices"][0]["message"]["content"])
    said = ""
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            event = msgspec.json.decode(line.removeprefix("data: "))
            assert "error" not in event, line
            said += "".join(each["delta"].get("content") or "" for each in event["choices"])
    assert response.text.endswith("data: [DONE]\n\n")
    return said


@asynccontextmanager
async def serving(folder: Path, base_gguf: Path, **settings_of_serve: Any) -> AsyncIterator[Served]:
    """`serve` in this process, until its lane answers."""
    settings = config(folder, base_gguf, **settings_of_serve)
    ready, stop = anyio.Event(), anyio.Event()

    async def run() -> None:
        await serve(settings, ready=ready.set, stop=stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        yield await reached(folder)
        stop.set()


async def reached(folder: Path) -> Served:
    """The gateway of `folder`, once its lane answers."""
    applier = LlamaServerApplier(
        folder / "serve.sock", scenario="tiny", feed_socket=folder / "feed.sock"
    )
    await until(lambda: is_serving(applier))
    address = (await applier.serving()).address
    assert address is not None
    return Served(applier, address)


async def is_serving(applier: LlamaServerApplier) -> bool:
    try:
        await applier.current()
    except ApplyError:
        return False
    return True


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds, 30 s at most."""
    with anyio.fail_after(30):
        while not await holds():
            await anyio.sleep(0.01)


def servers_of(folder: Path) -> list[int]:
    """Ids of the llama-server processes whose arguments are in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"honed.gateway.llama_child" in command and os.fsencode(folder) in b" ".join(
                command
            ):
                found.append(int(entry.name))
    return found


class Asked(Protocol):
    """What clients ask."""

    def client(self) -> httpx.AsyncClient: ...


@dataclass
class Load:
    """Clients that ask without a pause, half of them streaming."""

    served: Asked
    answers: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def client(self, streams: bool) -> None:
        async with self.served.client() as client:
            while True:
                body = QUESTION | {"max_tokens": ANSWER_TOKENS, "stream": streams}
                try:
                    response = await client.post(CHAT, json=body)
                    assert response.status_code == 200, response.text
                    self.answers.append((response.headers["x-honed-model"], text_of(response)))
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(repr(error))

    async def more(self, count: int) -> None:
        """Wait until so many answers more have come."""
        goal = len(self.answers) + count

        async def reached_goal() -> bool:
            return len(self.answers) >= goal

        await until(reached_goal)
