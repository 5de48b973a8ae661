"""The small world that the demo's agents work in: incidents with a hidden cause, and one change that ends each.

An incident has one of 8 causes. Three inspections show it, in one of 4 wordings; eight changes are possible, and
one is right for each cause. Which one is a permutation drawn from the world's seed: nothing in a word tells it, so
only outcomes can. A change before an inspection is refused; an incident ends with the right change, after
2 changes, or after 4 actions. Pure and seeded: the same seed and number give the same incident.

An agent answers `subject: action`, for example `memory: restart`; the subject is what it believes is wrong.
"""

import random
import re
from dataclasses import dataclass, field
from typing import Final

CAUSES: Final[dict[str, tuple[str, ...]]] = {
    "memory": (
        "heap of {service} at {n} percent",
        "{service} killed with {n} MB resident",
        "allocation of {n} MB failed in {service}",
        "collector of {service} paused {n} ms",
    ),
    "disk": (
        "volume of {service} is {n} percent full",
        "{service} cannot write, {n} blocks left",
        "no space for {n} bytes in {service}",
        "partition of {service} grew by {n} GB",
    ),
    "network": (
        "{n} packets lost towards {service}",
        "route to {service} flapped {n} times",
        "{service} unreachable from {n} hosts",
        "retransmits of {service} rose to {n}",
    ),
    "certificate": (
        "handshake with {service} refused {n} times",
        "{service} not trusted since {n} minutes",
        "TLS of {service} expired {n} hours ago",
        "chain of {service} invalid for {n} clients",
    ),
    "database": (
        "query of {service} scans {n} rows",
        "{service} holds {n} locks",
        "replica of {service} is {n} seconds behind",
        "{n} transactions of {service} aborted",
    ),
    "queue": (
        "backlog of {service} is {n} jobs",
        "consumers of {service} lag by {n} offsets",
        "{n} messages of {service} unacknowledged",
        "oldest job of {service} waits {n} minutes",
    ),
    "config": (
        "{service} rejects its setting {n}",
        "flag {n} of {service} is empty",
        "{service} started with profile {n}",
        "rollout {n} changed parameters of {service}",
    ),
    "traffic": (
        "{service} gets {n} visitors a second",
        "limit of {service} hit {n} times",
        "all {n} workers of {service} are busy",
        "requests to {service} rose to {n}",
    ),
}
INSPECTIONS: Final = ("logs", "metrics", "traces")
CHANGES: Final = ("restart", "purge", "reroute", "renew", "reindex", "drain", "revert", "scale")
ACTIONS: Final = (*INSPECTIONS, *CHANGES)
SERVICES: Final = ("checkout", "billing", "search", "login", "catalog", "basket", "mail", "stock")
ALERTS: Final = (
    "{service} answers after {n} seconds",
    "{service} fails {n} requests",
    "ticket {n} about {service}",
    "probe {n} of {service} is red",
)
UNKNOWN: Final = "unknown"
"""The subject before anything was inspected."""
SYSTEM: Final = "Answer subject: action."

MAX_ACTIONS: Final = 4
MAX_CHANGES: Final = 2

_REPLY = re.compile(r"(?P<subject>[a-z]+): (?P<action>[a-z]+)\Z")


@dataclass(frozen=True, slots=True)
class Reply:
    """An agent's answer, taken apart."""

    subject: str
    action: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.action}"


def parse_reply(text: str) -> Reply | None:
    """The reply in `text`; None when it is not `subject: action` with an action of this world."""
    match = _REPLY.match(text)
    if match is None or match["action"] not in ACTIONS:
        return None
    return Reply(match["subject"], match["action"])


def alert_text(rng: random.Random, service: str) -> str:
    """How an incident first shows."""
    return rng.choice(ALERTS).format(service=service, n=rng.randint(10, 99))


def finding_text(rng: random.Random, inspection: str, cause: str, service: str) -> str:
    """What an inspection shows of a cause, in one of its wordings."""
    wording = rng.choice(CAUSES[cause]).format(service=service, n=rng.randint(10, 99))
    return f"{inspection}: {wording}"


def no_effect_text(change: str) -> str:
    """What a change that is not the right one leads to."""
    return f"{change}: no effect"


@dataclass(frozen=True, slots=True)
class World:
    """Which change ends which cause; drawn from the seed and told to nobody."""

    seed: int
    right: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        changes = list(CHANGES)
        random.Random(f"{self.seed}/right").shuffle(changes)
        object.__setattr__(self, "right", dict(zip(CAUSES, changes, strict=True)))

    def incident(self, stream: str, number: int) -> "Incident":
        """Incident `number` of a stream; streams share nothing but the rules."""
        return Incident(self, random.Random(f"{self.seed}/{stream}/{number}"))


class Incident:
    """One task: what the agent sees, what it may still do, and how it ends."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._rng = rng
        self._service = rng.choice(SERVICES)
        self.cause = rng.choice(tuple(CAUSES))
        """Hidden from the agent."""
        self._right = world.right[self.cause]
        self.alert = alert_text(rng, self._service)
        self.num_actions = 0
        self.num_changes = 0
        self.has_inspected = False
        self.is_solved = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be done."""
        return self.is_solved or self.num_actions >= MAX_ACTIONS or self.num_changes >= MAX_CHANGES

    def act(self, action: str | None) -> str:
        """Do an action and return what the agent sees next; None stands for a reply that names no action."""
        if self.is_over:
            raise ValueError("the incident is over: expected no further action")
        self.num_actions += 1
        if action in INSPECTIONS:
            self.has_inspected = True
            return finding_text(self._rng, action, self.cause, self._service)
        if action not in CHANGES:
            return "refused: not an action"
        if not self.has_inspected:
            return "refused: inspect first"
        self.num_changes += 1
        self.is_solved = action == self._right
        return f"{action}: resolved" if self.is_solved else no_effect_text(action)
