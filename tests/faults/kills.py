"""kill -9 of the gateway, the daemon and each of the llama-servers behind it, at moments that a seed chooses, while
clients ask and somebody has one version after another served; and what explains each request that fails.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar

from honed.lifeline import descendants
from tests.faults.chaos import kill_now
from tests.faults.clients import Asked, Clients
from tests.faults.killed_service import KilledService, Strategy
from tests.faults.orders import Operator, Order

Kind = Literal[
    "gateway", "gateway with canary", "daemon", "live", "second", "flipped", "former", "candidate"
]
"""Live: the server that answers. Second: the one that comes up, at any moment of its switch. Flipped: the one that
answers, right after it has taken over. Former: the one before, while it finishes what it has.
"""
T = TypeVar("T")
_DECK: Final[dict[Kind, int]] = {
    "gateway": 8,
    "gateway with canary": 2,
    "daemon": 8,
    "live": 8,
    "second": 10,
    "flipped": 4,
    "former": 4,
    "candidate": 6,
}
"""How many of 50 kills are of which kind."""
_NEEDS_TWO: Final = ("candidate", "gateway with canary")
_POLL_S: Final = 0.001
_MOMENT_S: Final = 0.4
"""Kills that wait for nothing come within so long."""
_LIMIT_S: Final = 60
_SHARE: Final = 0.5


class Kill(NamedTuple):
    """One process that was killed."""

    kind: Kind
    strategy: Strategy
    version: str | None
    """What it served; None of a gateway and a daemon."""
    at_s: float
    gone_s: float
    """When nothing of it was left, its sockets included."""
    up_s: float = 0.0
    """When the next gateway took connections."""
    back_s: float = math.inf
    """Seconds until what it did was done again."""
    queued: int = 0
    """Captured calls that the gateway had in memory when it was asked last."""
    seen_s: float = 0.0
    """When that was."""
    whole_s: float = math.inf
    """Seconds until gateway and daemon agreed on what is served, and each server was there once."""

    @property
    def is_gateway(self) -> bool:
        """Whether the gateway itself was killed."""
        return self.kind in ("gateway", "gateway with canary")

    def explains(self, asked: Asked) -> bool:
        """Whether a request was in flight at this process when it was killed, and has failed as it should."""
        was_open = asked.began_s <= self.gone_s and self.at_s <= asked.ended_s
        match asked.fate:
            case "refused":
                return self.is_gateway and asked.began_s <= self.up_s and self.at_s <= asked.ended_s
            case "told":
                return was_open and self.version is not None and asked.version == self.version
            case "cut" if not self.is_gateway:
                return asked.is_half and was_open and asked.version == self.version is not None
            case "cut":
                return was_open
            case _:
                return False


def deck(seed: int) -> list[tuple[Kind, Strategy]]:
    """50 kills, each with the strategy of the gateway that is there then; another gateway may have another one."""
    chance = random.Random(f"deck/{seed}")
    kinds = [kind for kind, count in _DECK.items() for _ in range(count)]
    chance.shuffle(kinds)
    return list(_with_strategies(kinds, chance))


def _with_strategies(kinds: list[Kind], chance: random.Random) -> Iterator[tuple[Kind, Strategy]]:
    """A gateway that holds requests has no canary: the strategy fits all that is killed under one gateway, and the
    canary that it finds.
    """
    lives: list[list[Kind]] = [[]]
    for kind in kinds:
        lives[-1].append(kind)
        if kind.startswith("gateway"):
            lives.append([])
    before: list[Kind] = []
    for life in lives:
        needs_two = any(kind in _NEEDS_TWO for kind in [*before[-1:], *life])
        strategy: Strategy = "blue_green" if needs_two or chance.random() < 0.3 else "hold"
        for kind in life:
            yield kind, strategy
        before = life


@dataclass
class Killer:
    """Kills one process after the other; between two, everything is seen to be as it was."""

    service: KilledService
    operator: Operator
    clients: Clients
    seed: int
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(f"moments/{self.seed}")
        self._gateway_since_s = 0.0

    def run(self, plan: list[tuple[Kind, Strategy]]) -> None:
        """Kill as planned; the first gateway runs already."""
        following = [strategy for _, strategy in plan[1:]] + ["blue_green"]
        for (kind, strategy), after in zip(plan, following, strict=True):
            if kind in _NEEDS_TWO:
                with self.operator.turn:
                    self._kill_beside_a_canary(kind, strategy, after)
            else:
                kill = self._kill(kind, strategy, after)
                with self.operator.turn:
                    self._settle(kill)

    # ------------------------------------------------------------ killing

    def _kill(self, kind: Kind, strategy: Strategy, after: Strategy) -> Kill:
        match kind:
            case "gateway" | "gateway with canary":
                self._wait(_MOMENT_S)
                seen_s, queued = time.monotonic(), self.service.lane()["captured"]["queued"]
                at_s, gone_s = self.service.kill("serve")
                self.service.start("serve", after)
                self._gateway_since_s = gone_s
                kill = Kill(kind, strategy, None, at_s, gone_s, time.monotonic())
                return kill._replace(queued=queued, seen_s=seen_s)
            case "daemon":
                self._wait(_MOMENT_S)
                at_s, gone_s = self.service.kill("run")
                self.service.start("run")
                back_s = time.monotonic() - at_s
                return Kill(kind, strategy, None, at_s, gone_s, back_s=back_s)
        self._wait(_MOMENT_S if kind == "live" else 0)
        while True:
            pid, version = self._live() if kind == "live" else self._in_a_switch(kind)
            if (found := self._kill_server(kind, strategy, pid, version)) is not None:
                return found

    def _kill_server(self, kind: Kind, strategy: Strategy, pid: int, version: str) -> Kill | None:
        """None: it has just ended by itself."""
        if pid not in descendants(self.service.loop.running["serve"].pid):
            return None
        try:
            at_s, gone_s = kill_now(pid)
        except ProcessLookupError:
            return None
        return Kill(kind, strategy, version, at_s, gone_s)

    def _wait(self, most_s: float) -> None:
        time.sleep(self._chance.uniform(0, most_s))

    def _live(self) -> tuple[int, str]:
        """The server that answers, and its version."""
        return self.service.loop.until(self.service.live, "a server answers")

    def _in_a_switch(self, kind: Kind) -> tuple[int, str]:
        """The server that is meant, at the moment that is meant, of one of the switches that are ordered."""
        service = self.service
        pid, version, address = service.loop.until(service.alone, "one server answers")
        former = pid, version
        if kind == "former":
            self._until(lambda: service.address() != address)
            return former
        [second] = self._until(lambda: service.servers().items() - {former})
        if kind == "second":
            self._wait(self.operator.lasts_s)
        else:
            self._until(lambda: service.address() not in ("", address))
        return second

    def _kill_beside_a_canary(self, kind: Kind, strategy: Strategy, after: Strategy) -> None:
        self.service.loop.until(self.service.is_whole, "a canary can begin")
        target, others = self.operator.another(), self.service.servers()
        order = {"model_id": target, "share": _SHARE, "force": True, "said_by": "ann"}
        orders: list[Order] = []
        ordering = threading.Thread(
            target=lambda: orders.append(self.operator.ask("/v1/canary", order))
        )
        ordering.start()
        try:
            comes_up = kind == "candidate" and self._chance.random() < 0.4
            if comes_up:
                [trial] = self._until(lambda: self.service.servers().items() - others.items())
                self._wait(self.operator.lasts_s)
        finally:
            if not comes_up:
                ordering.join()
        if kind == "candidate":
            if not comes_up:
                [trial] = self.service.servers().items() - others.items()
                self._wait(_MOMENT_S)
            kill = self._kill_server(kind, strategy, *trial)
        else:
            kill = self._kill(kind, strategy, after)
        ordering.join()
        assert kill is not None, "nobody else ends it"
        assert orders[0].fate == "done" or comes_up, orders
        self._settle(kill)
        trial = self.service.lane()["candidate"]
        assert (trial is not None) == (orders[0].fate == "done"), (trial, orders)
        if trial is not None:
            assert trial["model_id"] == target
            assert self.operator.ask("/v1/canary/withdraw", {"said_by": "ann"}).fate == "done"
            self.service.loop.until(self.service.is_whole, "the canary is over")

    def _until(self, look: Callable[[], T | None]) -> T:
        """What it finds, looked for without a pause: the moment counts."""
        deadline = time.monotonic() + _LIMIT_S
        while not (found := look()):
            assert time.monotonic() < deadline, self.service.loop.log_tail()
            time.sleep(_POLL_S)
        return found

    # ------------------------------------------------------------ what is seen afterwards

    def _settle(self, kill: Kill) -> None:
        """See that what was served is served again, and nothing else meanwhile; that no process is left over; and that
        the gateway has counted the requests that clients saw fail.
        """
        service, clients = self.service, self.clients
        service.loop.until(service.is_whole, f"all is as it was before {kill}")
        whole_s = time.monotonic()
        lane = service.lane()
        assert lane["model_id"] in self.operator.in_service, (kill, lane)
        assert lane["refused"] == 0, (kill, lane)
        service.loop.until(lambda: not service.strays(), f"nothing is left over after {kill}")
        answer = service.loop.until(
            lambda: clients.answered_after(kill.gone_s), "requests are answered"
        )
        tried = {lane["candidate"]["model_id"]} if lane["candidate"] else set()
        answered = clients.versions_since(kill.gone_s)
        assert answered <= self.operator.meant | tried, (answered, self.operator.meant, kill)
        self.operator.in_service, self.operator.meant = {lane["model_id"]}, {lane["model_id"]}
        if kill.kind != "daemon":
            ended_s = whole_s if kill.kind == "candidate" else answer.ended_s
            kill = kill._replace(back_s=ended_s - kill.at_s)
        kill = kill._replace(whole_s=whole_s - kill.at_s)
        service.loop.until(
            lambda: service.lane()["failed"] == clients.failed_since(self._gateway_since_s),
            "the gateway has counted what failed",
        )
        self.kills.append(kill)


def unexplained(kills: list[Kill], asked: list[Asked]) -> list[Asked]:
    """Requests that failed, and were not in flight at a process when that was killed."""
    failed = [each for each in asked if each.fate != "answered"]
    return [each for each in failed if not any(kill.explains(each) for kill in kills)]


def unexplained_orders(kills: list[Kill], orders: list[Order]) -> list[Order]:
    """Orders that were not carried out, although no process was killed that had a part in them: who has handed over, or
    is only tried, has none.
    """
    return [
        each
        for each in orders
        if each.fate != "done"
        and not any(
            kill.kind not in ("former", "flipped", "candidate")
            and each.began_s <= kill.at_s + kill.whole_s
            and kill.at_s <= each.ended_s
            for kill in kills
        )
    ]


def lost(asked: list[Asked], stored: set[str]) -> list[Asked]:
    """Calls that were answered whole and are not in the store."""
    return [each for each in asked if each.fate == "answered" and each.receipt not in stored]


def lost_beyond_memory(kills: list[Kill], missing: list[Asked]) -> list[Asked]:
    """Which of the calls that are missing no gateway that was killed had in memory.

    It had those of which it said so when it was asked last, as far as they had ended by then, and it may have had any
    that ended later.
    """
    gateways = [kill for kill in kills if kill.is_gateway]
    found, since_s = [], -math.inf
    for kill in gateways:
        # who had begun before a gateway was gone, and after the one before was, was answered by it
        its = [each for each in missing if since_s < each.began_s <= kill.gone_s]
        told_of = [each for each in its if each.ended_s <= kill.seen_s]
        found += told_of if len(told_of) > kill.queued else []
        since_s = kill.gone_s
    return found + [each for each in missing if each.began_s > since_s]
