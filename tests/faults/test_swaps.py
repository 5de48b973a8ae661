"""Swaps under full load: no request fails, is cut, or is made of two adapters' tokens; no cache of the one before
answers.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.planted import LETTERS, Planted, letter_of
from tests.served import CHAT, Served, model, serving, text_of

pytestmark = pytest.mark.anyio

CLIENTS = 16
TOPICS = 40
PREAMBLE = "you operate services; first say what is wrong, then what should be done about it. " * 6
"""What all prompts share: as an agent's instructions would be, it is what a prompt cache keeps."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """As `honed serve` runs."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Adapters whose tokens can be told from each other, whatever is asked."""
    return Planted(tmp_path_factory.mktemp("planted"))


@dataclass
class Swarm:
    """Clients that ask without a pause, half of them streaming."""

    served: Served
    answered: int = 0
    by_version: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """Requests that failed, were cut, or were answered by another version than the header says."""

    async def client(self, number: int) -> None:
        chance = random.Random(number)
        async with self.served.client() as client:
            while True:
                await self._ask(client, chance, streams=number % 2 == 0)

    async def _ask(
        self, client: httpx.AsyncClient, chance: random.Random, *, streams: bool
    ) -> None:
        topic, num_tokens = chance.randrange(TOPICS), chance.randint(1, 24)
        body = {
            "messages": [{"role": "user", "content": f"{PREAMBLE} incident {topic}"}],
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": streams,
        }
        try:
            response = await client.post(CHAT, json=body, headers={"x-honed-task": f"t{topic}"})
            assert response.status_code == 200, response.text
            version, text = response.headers["x-honed-model"], text_of(response)
            assert text == letter_of(version) * num_tokens, f"{version} said {text}"
        except (httpx.HTTPError, AssertionError, KeyError) as error:
            self.wrong.append(repr(error))
        else:
            self.by_version[version] = self.by_version.get(version, 0) + 1
        self.answered += 1

    async def more(self, count: int) -> None:
        """Wait until so many requests more have come to their end."""
        goal = self.answered + count
        with anyio.fail_after(600):
            while self.answered < goal:
                await anyio.sleep(0.01)


async def swap_under_load(
    folder: Path, gguf: Path, adapters: list[Path], *, requests: int, strategy: str
) -> dict[str, Any]:
    """Swap from the first adapter to each of the others, under load, and count; the figures."""
    settings = {"strategy": strategy, "ctx_size": 512}
    async with serving(folder, gguf, **settings) as served:
        await served.applier.apply(model(adapters[0]), previous=None)
        swarm = Swarm(served)
        async with anyio.create_task_group() as clients:
            for number in range(CLIENTS):
                clients.start_soon(swarm.client, number)
            for adapter in adapters[1:]:
                await swarm.more(requests // len(adapters))
                await served.applier.apply(model(adapter), previous=None)
            await swarm.more(max(requests // len(adapters), requests - swarm.answered))
            clients.cancel_scope.cancel()
        lane = await served.lane()
    assert swarm.wrong == []
    assert set(swarm.by_version) == {adapter.name for adapter in adapters}
    assert sum(swarm.by_version.values()) >= requests
    assert (lane.failed, lane.refused) == (0, 0)
    return {
        "swaps": len(adapters) - 1,
        "asked": swarm.answered,
        "wrong": len(swarm.wrong),
    } | swarm.by_version


@pytest.mark.parametrize("strategy", ["blue_green", "hold"])
async def test_swaps_under_load_are_noticed_by_nobody(
    tmp_path: Path, planted: Planted, strategy: str
) -> None:
    """Each answer is made of the tokens of the version that its header names, from first to last."""
    adapters = planted.adapters(3)
    await swap_under_load(tmp_path, planted.gguf, adapters, requests=300, strategy=strategy)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["blue_green", "hold"])
async def test_ten_thousand_requests_across_ten_swaps(
    tmp_path: Path,
    planted: Planted,
    strategy: str,
    record_property: Callable[[str, object], None],
) -> None:
    """0 of 10,000 failed, cut or mixed."""
    adapters = planted.adapters(len(LETTERS))
    figures = await swap_under_load(
        tmp_path, planted.gguf, adapters, requests=10_000, strategy=strategy
    )
    record_property("swaps", figures)


async def ask_after_swaps(
    folder: Path, gguf: Path, adapters: tuple[Path, ...], *, swaps: int, probes: int, strategy: str
) -> None:
    """After each swap, ask again what the version before has answered, with its prompt in every slot's cache."""
    body = {
        "messages": [{"role": "user", "content": f"{PREAMBLE} what is wrong?"}],
        "max_tokens": 8,
        "ignore_eos": True,
        "temperature": 0,
        "cache_prompt": True,
    }
    async with (
        serving(folder, gguf, strategy=strategy, ctx_size=512) as served,
        served.client() as client,
    ):
        expected: dict[str, str] = {}
        for number in range(swaps):
            adapter = adapters[number % len(adapters)]
            await served.applier.apply(model(adapter), previous=None)
            if adapter.name not in expected:
                fresh = await client.post(CHAT, json=body | {"cache_prompt": False})
                expected[adapter.name] = text_of(fresh)
            for _ in range(probes):
                answer = await client.post(CHAT, json=body)
                assert answer.headers["x-honed-model"] == adapter.name
                assert text_of(answer) == expected[adapter.name]
        assert len(set(expected.values())) == len(adapters)


@pytest.mark.parametrize("strategy", ["blue_green", "hold"])
async def test_no_cache_of_the_version_before_answers(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path], strategy: str
) -> None:
    """The same prompt, cached by the one before, is answered by the new adapter from the first time on."""
    await ask_after_swaps(tmp_path, tiny_gguf, tiny_adapters, swaps=3, probes=10, strategy=strategy)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["blue_green", "hold"])
async def test_a_thousand_probes_after_ten_swaps(
    tmp_path: Path,
    tiny_gguf: Path,
    tiny_adapters: tuple[Path, Path],
    strategy: str,
    record_property: Callable[[str, object], None],
) -> None:
    """0 of 1,000 answers come from a stale prompt cache."""
    await ask_after_swaps(
        tmp_path, tiny_gguf, tiny_adapters, swaps=10, probes=100, strategy=strategy
    )
    record_property("probes after swaps", {"swaps": 10, "probes": 1_000, "of the one before": 0})
