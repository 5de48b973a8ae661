"""A loop under load whose processes are killed with -9 at random, and what is known of it afterwards.

Processes are found by what honed itself says (`/v1/status`, the pid files of its llama-servers) and by
/proc's list of the children of processes that were found so; never by name.
"""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from honed.lifeline import descendants
from tests.incidents import attempt
from tests.processes import Honed, is_alive

KINDS: Final = ("daemon", "gateway", "worker", "llama-server")
MARK: Final = "CHAOS_MARK"
"""Environment variable that every process of one chaos inherits; llama-servers get none of those named `HONED_...`."""
_CALL_TIMEOUT_S: Final = 60


class Kill(NamedTuple):
    """One process that was killed."""

    kind: str
    at_s: float
    gone_s: float
    """When the kernel had taken it down, its sockets included: it takes connections until then."""
    pid: int


class Failure(NamedTuple):
    """One request that got no whole answer."""

    began_s: float
    ended_s: float
    reason: str


@dataclass
class Callers:
    """Clients of the gateway, each request on a connection of its own, half of them streamed."""

    address: str
    answers: int = 0
    models: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest_s: float = 0.0

    @contextlib.contextmanager
    def calling(self, count: int) -> Iterator[None]:
        """Call without a pause until the context ends."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._call, args=(stop, bool(i % 2))) for i in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * _CALL_TIMEOUT_S)

    def _call(self, stop: threading.Event, streams: bool) -> None:
        body = {
            "model": "incidents",
            "messages": attempt(1)[0][:2],
            "temperature": 0,
            "max_tokens": 64,
            "ignore_eos": True,
            "stream": streams,
        }
        fresh = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(timeout=_CALL_TIMEOUT_S, limits=fresh) as client:
            while not stop.wait(0.01):
                began_s = time.monotonic()
                try:
                    answer = client.post(
                        f"{self.address}/v1/chat/completions",
                        json=body,
                        headers={"x-honed-purpose": "probe"},
                    )
                    reason = _fault(answer, streams)
                except httpx.HTTPError as error:
                    reason = repr(error)
                ended_s = time.monotonic()
                self.slowest_s = max(self.slowest_s, ended_s - began_s)
                if reason:
                    self.failures.append(Failure(began_s, ended_s, reason))
                else:
                    self.answers += 1
                    self.models[answer.headers["x-honed-model"]] += 1


def _fault(answer: httpx.Response, streams: bool) -> str | None:
    if answer.status_code != 200:
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
        return f"503 {answer.json()['error']['message']}"
    if streams and not answer.text.endswith("data: [DONE]\n\n"):
        assert '"error"' in answer.text
        return f"stream: {answer.text[-300:]}"
    return None


@dataclass
class Chaos:
    """Kills at random moments, repeatable by seed as far as the machine is."""

    loop: Honed
    seed: int
    every_s: tuple[float, float]
    kills: list[Kill] = field(default_factory=list)
    orders: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        """Kill for so long, while adapters are switched and trained."""
        stop = threading.Event()
        operators = [
            threading.Thread(target=_repeat, args=(stop, each))
            for each in (self._swap, self._train)
        ]
        for operator in operators:
            operator.start()
        moments = random.Random(self.seed)
        ends_s = time.monotonic() + seconds
        try:
            while time.monotonic() < ends_s:
                time.sleep(moments.uniform(*self.every_s))
                self._kill(moments.choice(KINDS), moments)
        finally:
            stop.set()
            for operator in operators:
                operator.join(120)

    def counts(self) -> dict[str, int]:
        """Kills by kind."""
        return dict(Counter(kill.kind for kill in self.kills))

    def explains(self, failure: Failure) -> bool:
        """Whether a process that requests pass through was killed while this one was open."""
        return any(
            kill.kind in ("gateway", "llama-server")
            and failure.began_s <= kill.gone_s
            and kill.at_s <= failure.ended_s
            for kill in self.kills
        )

    def nearest(self, failure: Failure) -> Kill | None:
        """The kill whose moment is nearest to the failure's beginning."""
        return min(self.kills, key=lambda kill: abs(kill.at_s - failure.began_s), default=None)

    def _kill(self, kind: str, moments: random.Random) -> None:
        pids = self._pids(kind)
        if not pids:
            return
        pid = moments.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            self.kills.append(Kill(kind, *kill_now(pid), pid))

    def _pids(self, kind: str) -> list[int]:
        both = self.loop.children("up")
        daemon = self._daemon(both)
        match kind:
            case "daemon":
                return [pid for pid in both if pid == daemon]
            case "gateway":
                return [pid for pid in both if daemon is not None and pid != daemon]
            case "worker":
                return descendants(daemon) if daemon is not None else []
            case _:
                return list(_llama_servers(self.loop.data_dir / "llama", both))

    def _daemon(self, both: list[int]) -> int | None:
        """The daemon's pid, as its status or else its lock says."""
        found = _asked(lambda: self.loop.ask("GET", "/v1/status")["pid"])
        return found if found in both else None

    def _swap(self) -> None:
        current = self.loop.status()["current_model"]
        if current is None:
            self.loop.ask("POST", "/v1/apply", {"model_id": "incidents@1", "force": True})
        else:
            self.loop.ask("POST", "/v1/rollback")
        self.orders["switched"] += 1

    def _train(self) -> None:
        self.loop.ask("POST", "/v1/train-now", {})
        self.orders["trained"] += 1


def kill_now(pid: int) -> tuple[float, float]:
    """kill -9; when it was sent, and when nothing of the process was left. Raises ProcessLookupError."""
    at_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while _has_threads(pid):
        time.sleep(0.001)
    return at_s, time.monotonic()


def _has_threads(pid: int) -> bool:
    """Whether anything of a killed process still runs: its leader may be dead while a thread holds its sockets."""
    try:
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False
    return threads > 1 or is_alive(pid)


def _repeat(stop: threading.Event, order: Callable[[], None]) -> None:
    while not stop.wait(1.5):
        _asked(order)


def _asked(question: Callable[[], Any]) -> Any:
    """The answer; None when the process that was asked has been killed, or refuses."""
    with contextlib.suppress(httpx.HTTPError):
        return question()
    return None


def _llama_servers(folder: Path, both: list[int]) -> Iterator[int]:
    """The pids that the gateway has written down, if they are children of one of both."""
    children = {child for pid in both for child in descendants(pid)}
    for path in folder.glob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            if (pid := int(path.read_text())) in children:
                yield pid


def marked(mark: str) -> list[int]:
    """Processes that carry the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
