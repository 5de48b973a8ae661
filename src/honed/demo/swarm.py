"""The demo's swarm: agents that ask a model, through the gateway, what to do next.

The gateway captures the calls by itself; an agent only names its task in the headers and tells the outcome. While
it collects, an agent explores: now and then it has an action drawn, and asks the model with a grammar that leaves
the subject to the model and fixes the action. So what was captured is what was done, and no text is edited.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import anyio
import httpx

from honed.demo.environment import ACTIONS, SYSTEM, UNKNOWN, Incident, Reply, World, parse_reply

MAX_TOKENS: Final = 10
_TIMEOUT_S: Final = 60.0

Tell = Callable[[str, bool, str], Awaitable[None]]
"""Told how a task ended: its id, whether it was solved, and why not."""


class Manner(NamedTuple):
    """How the swarm works."""

    stream: str
    """Which incidents; two streams share none."""
    purpose: Literal["work", "evaluation"]
    temperature: float
    exploration: float = 0.0
    """Share of the actions that are drawn instead of chosen."""
    num_agents: int = 8
    pause_s: float = 0.0
    """Wait of an agent before each request."""


class Call(NamedTuple):
    """One request, as its agent saw it."""

    at_s: float
    """When the answer was there, Unix seconds."""
    latency_ms: float
    model: str | None
    """What answered, `scenario@n` or `base`; None when the request failed."""


class Attempt(NamedTuple):
    """How one incident went."""

    is_solved: bool
    num_replies: int
    num_invalid: int
    """Replies that named no action."""
    num_readings: int
    """Replies to a finding; an incident that was never inspected has none."""
    num_right_readings: int
    """Of these, how many named the cause as their subject."""


class RequestFailedError(Exception):
    """A request of an agent got no answer."""


class Swarm:
    """Agents in one world, behind one address. `calls` keeps every request, `errors` why some failed."""

    def __init__(self, world: World, http: httpx.AsyncClient, *, model: str) -> None:
        self._world = world
        self._http = http
        self._model = model
        self.calls: list[Call] = []
        self.errors: list[str] = []

    @property
    def num_failed(self) -> int:
        """Requests without an answer."""
        return len(self.errors)

    async def work(
        self,
        manner: Manner,
        count: int | None,
        *,
        tell: Tell | None = None,
        on_attempt: Callable[[Attempt], None] = lambda attempt: None,
    ) -> list[Attempt]:
        """Work on `count` incidents, or until cancelled; a failed request ends its attempt, unanswered for."""
        attempts: list[Attempt] = []
        numbers = iter(range(count if count is not None else 1 << 60))

        async def agent(name: str) -> None:
            for number in numbers:
                try:
                    attempt = await self._attempt(manner, number, name, tell)
                except RequestFailedError as error:
                    self.errors.append(str(error))
                    continue
                attempts.append(attempt)
                on_attempt(attempt)

        async with anyio.create_task_group() as agents:
            for i in range(manner.num_agents):
                agents.start_soon(agent, f"agent-{i + 1}")
        return attempts

    async def _attempt(self, manner: Manner, number: int, agent: str, tell: Tell | None) -> Attempt:
        incident = self._world.incident(manner.stream, number)
        task_id = f"{manner.stream}-{number}"
        headers = {
            "x-honed-task": task_id,
            "x-honed-group": task_id,
            "x-honed-agent": agent,
            "x-honed-purpose": manner.purpose,
        }
        drawn = draws(random.Random(f"{self._world.seed}/{task_id}/explore"), manner.exploration)
        messages = [_turn("system", SYSTEM), _turn("user", incident.alert)]
        replies: list[Reply | None] = []
        readings: list[bool] = []
        while not incident.is_over:
            if manner.pause_s:
                await anyio.sleep(manner.pause_s)
            text = await self._ask(messages, headers, manner.temperature, next(drawn))
            reply = parse_reply(text)
            if incident.has_inspected:
                readings.append(reply is not None and reply.subject == incident.cause)
            replies.append(reply)
            seen = incident.act(reply.action if reply else None)
            messages += [_turn("assistant", text), _turn("user", seen)]
        if tell is not None:
            await tell(task_id, incident.is_solved, "" if incident.is_solved else _why(incident))
        return Attempt(
            incident.is_solved, len(replies), replies.count(None), len(readings), sum(readings)
        )

    async def _ask(
        self,
        messages: list[dict[str, str]],
        headers: dict[str, str],
        temperature: float,
        action: str | None,
    ) -> str:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1,
            "min_p": 0,
            "max_tokens": MAX_TOKENS,
        }
        if action is not None:
            body["grammar"] = grammar_for(action)
        started = time.perf_counter()
        try:
            response = await self._http.post(
                "/v1/chat/completions", json=body, headers=headers, timeout=_TIMEOUT_S
            )
            response.raise_for_status()
            text: str = response.json()["choices"][0]["message"]["content"]
        except (httpx.HTTPError, ValueError, LookupError) as error:
            self._note(started, None)
            raise RequestFailedError(f"{type(error).__name__}: {error}") from error
        self._note(started, response.headers.get("x-honed-model", "base"))
        return text

    def _note(self, started: float, model: str | None) -> None:
        self.calls.append(Call(time.time(), 1000 * (time.perf_counter() - started), model))


def grammar_for(action: str) -> str:
    """A GBNF grammar of replies with this action: any subject, then the action."""
    return f'root ::= [a-z]+ ": {action}"'


def draws(rng: random.Random, exploration: float) -> Iterator[str | None]:
    """For each step of an attempt an action to do, or None to leave it to the model."""
    while True:
        yield rng.choice(ACTIONS) if rng.random() < exploration else None


def _why(incident: Incident) -> str:
    if not incident.has_inspected:
        return f"{UNKNOWN} cause: never inspected"
    return f"not resolved, changes made: {incident.num_changes}"


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
