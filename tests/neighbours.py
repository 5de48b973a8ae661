"""Several scenarios on one planted base in one gateway: which adapter answered is read off the answer."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx

from honed.appliers import LlamaServerApplier
from honed.domain.serving import LaneStatus
from tests.planted import LETTERS, Planted
from tests.served import CHAT, Served, model, serving, text_of


def letter_of(model_id: str) -> str:
    """What `scenario@n` says: the adapter number n of the planted ones."""
    return LETTERS[int(model_id.partition("@")[2])]


@dataclass
class Neighbours:
    """A gateway with several scenarios, and what they were told to serve."""

    served: Served
    planted: Planted
    folder: Path
    appliers: dict[str, LlamaServerApplier] = field(default_factory=dict)

    async def move_in(self, scenario: str) -> LlamaServerApplier:
        """Register a scenario."""
        applier = self.appliers[scenario] = LlamaServerApplier(
            self.folder / "serve.sock",
            scenario=scenario,
            feed_socket=self.folder / f"{scenario}.sock",
            make_base=self._base,
        )
        await applier.lane()
        return applier

    async def _base(self) -> tuple[Path, None]:
        return self.planted.gguf, None

    async def apply(self, scenario: str, number: int) -> None:
        """Have the scenario served by the planted adapter of that number."""
        applier = self.appliers.get(scenario) or await self.move_in(scenario)
        adapter = self.planted.adapters(number + 1)[number]
        await applier.apply(model(adapter, id=f"{scenario}@{number}"), previous=None)

    async def lanes(self) -> dict[str, LaneStatus]:
        """What the gateway says of each, but for the first one, which nobody asks."""
        lanes = (await self.served.applier.serving()).scenarios
        return {name: lane for name, lane in lanes.items() if name in self.appliers}

    async def servers(self) -> set[int]:
        """Processes of the llama-servers that answer now."""
        async with self.served.control() as control:
            found = [
                await control.get(f"/v1/scenarios/{name}/server")
                for name, lane in (await self.lanes()).items()
                if not lane.is_parked
            ]
        return {answer.json()["pid"] for answer in found if answer.status_code == 200}


@asynccontextmanager
async def neighbours(folder: Path, planted: Planted, **settings: Any) -> AsyncIterator[Neighbours]:
    """A gateway in this process, whose own scenario `tiny` keeps to itself."""
    defaults = {"max_adapters": 8, "alone": ["tiny"], "ctx_size": 512}
    async with serving(folder, planted.gguf, **(defaults | settings)) as served:
        yield Neighbours(served, planted, folder)


@dataclass
class Crowd:
    """Clients that ask all scenarios without a pause, half of them streaming."""

    served: Served
    scenarios: list[str]
    answers: Counter[str] = field(default_factory=Counter)
    """By version."""
    wrong: list[str] = field(default_factory=list)
    """Requests that failed, were cut, or were answered by another adapter than the header says."""

    @asynccontextmanager
    async def asking(self, clients: int) -> AsyncIterator[None]:
        """Ask until the body is left."""
        async with anyio.create_task_group() as tasks:
            for number in range(clients):
                tasks.start_soon(self._client, number)
            yield
            tasks.cancel_scope.cancel()

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        async with self.served.client() as client:
            while True:
                await self._ask(client, chance, streams=number % 2 == 0)

    async def _ask(
        self, client: httpx.AsyncClient, chance: random.Random, *, streams: bool
    ) -> None:
        scenario, num_tokens = chance.choice(self.scenarios), chance.randint(1, 16)
        body = {
            "model": scenario,
            # the same prompts for all: what one scenario leaves in a slot fits the next one's
            "messages": [{"role": "user", "content": f"incident {chance.randrange(8)}"}],
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": streams,
        }
        try:
            response = await client.post(CHAT, json=body)
            assert response.status_code == 200, response.text
            version, text = response.headers["x-honed-model"], text_of(response)
            assert version.startswith(f"{scenario}@"), f"{version} answered for {scenario}"
            assert text == letter_of(version) * num_tokens, f"{version} said {text}"
        except (httpx.HTTPError, AssertionError, KeyError) as error:
            self.wrong.append(repr(error))
        else:
            self.answers[version] += 1

    async def has_asked(self, scenario: str, count: int) -> None:
        """Wait until a scenario has answered so often."""
        with anyio.fail_after(300):
            while (
                sum(
                    num
                    for version, num in self.answers.items()
                    if version.startswith(f"{scenario}@")
                )
                < count
            ):
                await anyio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Wait until so many answers more have come."""
        goal = self.answers.total() + len(self.wrong) + count
        with anyio.fail_after(300):
            while self.answers.total() + len(self.wrong) < goal:
                await anyio.sleep(0.01)
