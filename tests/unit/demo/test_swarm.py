"""The demo's agents: what they ask, what they tell, and what they count."""

import json
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from honed.demo.environment import ACTIONS, CHANGES, World
from honed.demo.statistics import wilson
from honed.demo.swarm import Manner, Swarm, draws, grammar_for
from honed.listen import serving
from tests.unit.worker.llama import llama_server

pytestmark = pytest.mark.anyio

WORLD = World(1)
MANNER = Manner("test", "work", temperature=0.7, num_agents=4)


class Model:
    """An ASGI application that answers chat requests: an inspection first, then the right change if it knows it."""

    def __init__(self, *, knows: bool = True, fails_every: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self._knows = knows
        self._fails_every = fails_every

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.requests.append((headers, body))
        fails = self._fails_every and len(self.requests) % self._fails_every == 0
        text = json.dumps({"choices": [{"message": {"content": self._reply(headers, body)}}]})
        head = [(b"content-type", b"application/json"), (b"x-honed-model", b"incidents@1")]
        status = 503 if fails else 200
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": text.encode()})

    def _reply(self, headers: dict[str, str], body: dict[str, Any]) -> str:
        if "grammar" in body:
            return f"unknown: {re.findall(r'[a-z]+', body['grammar'])[-1]}"
        if all(m["content"].startswith("refused") for m in body["messages"][3::2]):
            return "unknown: logs"
        stream, _, number = headers["x-honed-task"].rpartition("-")
        cause = WORLD.incident(stream, int(number)).cause
        return f"{cause}: {WORLD.right[cause] if self._knows else CHANGES[0]}"


@asynccontextmanager
async def _swarm(model: Any) -> AsyncIterator[Swarm]:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        serving(model, listener, drain_s=1),
        httpx.AsyncClient(base_url=address, trust_env=False) as http,
    ):
        yield Swarm(WORLD, http, model="incidents")
    listener.close()


async def test_a_model_that_knows_resolves_everything() -> None:
    """Success is what the world says, and a right reading is counted."""
    async with _swarm(Model()) as swarm:
        attempts = await swarm.work(MANNER, 20)
    assert [attempt.is_solved for attempt in attempts] == [True] * 20
    assert sum(attempt.num_right_readings for attempt in attempts) == 20
    assert len(swarm.calls) == 40
    assert {call.model for call in swarm.calls} == {"incidents@1"}
    assert swarm.errors == []


async def test_an_agent_names_its_task_and_its_purpose() -> None:
    """Each incident is a task and a group of its own; the whole conversation is sent each time."""
    model = Model()
    async with _swarm(model) as swarm:
        await swarm.work(MANNER._replace(purpose="evaluation"), 3)
    tasks = Counter(headers["x-honed-task"] for headers, _ in model.requests)
    assert tasks == {"test-0": 2, "test-1": 2, "test-2": 2}
    for headers, body in model.requests:
        assert headers["x-honed-group"] == headers["x-honed-task"]
        assert headers["x-honed-purpose"] == "evaluation"
        assert [body[key] for key in ("model", "temperature", "top_k", "top_p", "min_p")] == [
            "incidents",
            0.7,
            0,
            1,
            0,
        ]
        assert [m["role"] for m in body["messages"][:2]] == ["system", "user"]


async def test_every_task_is_told_once_with_its_outcome() -> None:
    """A failure says why."""
    told: dict[str, tuple[bool, str]] = {}

    async def tell(task_id: str, is_solved: bool, reason: str) -> None:
        assert task_id not in told
        told[task_id] = (is_solved, reason)

    async with _swarm(Model(knows=False)) as swarm:
        attempts = await swarm.work(MANNER, 40, tell=tell)
    assert len(told) == 40
    assert sum(is_solved for is_solved, _ in told.values()) == sum(a.is_solved for a in attempts)
    assert {reason for is_solved, reason in told.values() if not is_solved} == {
        "not resolved, changes made: 2"
    }


async def test_a_failed_request_is_counted_and_its_task_left_open() -> None:
    """Nothing is told of an attempt that the swarm could not finish."""
    told: list[str] = []

    async def tell(task_id: str, is_solved: bool, reason: str) -> None:
        told.append(task_id)

    async with _swarm(Model(fails_every=5)) as swarm:
        attempts = await swarm.work(MANNER, 30, tell=tell)
    failed = [call for call in swarm.calls if call.model is None]
    assert swarm.num_failed == len(failed) > 0
    assert len(attempts) == len(told) == 30 - swarm.num_failed
    assert all("503" in error for error in swarm.errors)


async def test_nobody_listening_is_a_failed_request() -> None:
    """Not an exception that ends the swarm."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=address, trust_env=False) as http:
        swarm = Swarm(WORLD, http, model="incidents")
        assert await swarm.work(MANNER._replace(num_agents=1), 2) == []
    assert swarm.num_failed == 2


async def test_load_ends_when_it_is_cancelled() -> None:
    """Without a count the swarm works on, and a request cut off by its own end is no failure."""
    async with _swarm(Model()) as swarm, anyio.create_task_group() as tasks:
        tasks.start_soon(swarm.work, MANNER._replace(pause_s=0.001), None)
        with anyio.fail_after(60):
            while len(swarm.calls) < 20:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert swarm.errors == []
    assert all(call.model for call in swarm.calls)


async def test_a_drawn_action_is_asked_for_by_grammar() -> None:
    """What is captured is what is done: the action comes in the model's own answer."""
    model = Model()
    async with _swarm(model) as swarm:
        await swarm.work(MANNER._replace(exploration=1.0), 30)
    asked = [re.findall(r"[a-z]+", body["grammar"])[-1] for _, body in model.requests]
    assert set(asked) == set(ACTIONS)
    for headers, body in model.requests:
        said = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
        rng = random.Random(f"{WORLD.seed}/{headers['x-honed-task']}/explore")
        drawn = draws(rng, 1.0)
        assert said == [f"unknown: {next(drawn)}" for _ in said]


def test_a_fifth_is_drawn() -> None:
    """The share of exploration is the share of drawn actions, all actions alike."""
    drawn = draws(random.Random(1), 0.2)
    actions = [next(drawn) for _ in range(20_000)]
    share = wilson(sum(action is not None for action in actions), len(actions))
    assert share.low < 0.2 < share.high
    counts = Counter(action for action in actions if action)
    assert set(counts) == set(ACTIONS)
    assert min(counts.values()) > 0.7 * max(counts.values())


def test_the_real_server_keeps_to_the_grammar(tiny_gguf: Path, tmp_path: Path) -> None:
    """Every answer of a random model is a beginning of a reply with the action that was fixed."""
    with llama_server(tiny_gguf, log=tmp_path / "llama.log") as client:
        for action in ACTIONS:
            body = {
                "messages": [{"role": "user", "content": "logs"}],
                "grammar": grammar_for(action),
                "temperature": 1.0,
                "max_tokens": 30,
            }
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            text = response.json()["choices"][0]["message"]["content"]
            match = re.fullmatch(r"[a-z]*(:( (?P<action>[a-z]*))?)?", text)
            assert match, text
            assert action.startswith(match["action"] or "")
