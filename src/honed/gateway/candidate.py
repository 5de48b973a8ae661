"""A version that is tried beside the live one: which requests it gets, and how it does with them."""

import hashlib
from typing import Final

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from honed.domain.serving import AdapterRef, CanaryOrder, CandidateState, CandidateStatus
from honed.gateway.attempts import Attempts
from honed.gateway.backend import Backend
from honed.gateway.wanted import Wanted

FAULTS_MAX: Final = 3
"""Deaths of its server and starts that failed, all together, after which it is withdrawn. They are
not forgotten while it serves: one that dies of every tenth prompt should not be tried for ever.
"""


class Candidate:
    """One order to try a version. What it does to the lane is in `arms`."""

    def __init__(self, scenario: str, order: CanaryOrder) -> None:
        self.order = order
        self.backend: Backend | None = None
        self.state: CandidateState = "starting"
        self.is_proved = False
        """Whether a server of it has passed its probe once; only then it is remembered."""
        self.requests = 0
        self.failed = 0
        self.dropped = 0
        self.num_copies = 0
        """Copies that it answers now."""
        self.copies: TaskGroup | None = None
        """Where it does; there from when it is kept up."""
        self.faults = 0
        self.is_short_of_room = False
        """Whether it has no server because none fits."""
        self.error: str | None = None
        self.attempts = Attempts()
        self.scope: anyio.CancelScope | None = None
        """Of what keeps it up; cancelled when it is no candidate any more."""
        self._scenario = scenario
        self._news = anyio.Event()

    @property
    def adapter(self) -> AdapterRef:
        """What its server serves."""
        return AdapterRef(self.order.model_id, self.order.adapter_path, self.order.digest)

    @property
    def is_withdrawn(self) -> bool:
        """Whether it is only told of, and not tried any more."""
        return self.state == "withdrawn"

    def is_of(self, order: CanaryOrder) -> bool:
        """Whether `order` speaks of the version that is tried; it may name another share."""
        mine = replace(self.order, share=order.share, is_shadow=order.is_shadow)
        return mine == order

    def takes(self, wanted: Wanted) -> bool:
        """Whether it answers a request instead of the live version, when its server is up."""
        return not self.order.is_shadow and self.has(wanted)

    def has(self, wanted: Wanted) -> bool:
        """Whether a request is of its share; one that cannot be told to belong to anything is not."""
        if wanted.unit is None:
            return False
        return place(self._scenario, self.order.model_id, wanted.unit) < self.order.share

    def is_served_by(self, backend: Backend) -> bool:
        """Whether a server is one of this version, also one that has just gone."""
        return backend.model_id == self.order.model_id

    def serve(self, backend: Backend) -> None:
        """It has a server from now on."""
        self.backend, self.state, self.error = backend, "active", None
        self.is_proved, self.is_short_of_room = True, False
        self.attempts.served()

    def fault(self, why: str) -> None:
        """Its server is gone, or did not come up."""
        self.backend, self.state, self.error = None, "down", why
        self.faults += 1
        self.tell()

    def wait_for_room(self, why: str) -> None:
        """It has no server, for want of memory and through no fault of its own."""
        self.backend, self.state, self.error = None, "down", f"it waits for room: {why}"
        self.is_short_of_room = True

    def step_aside(self) -> None:
        """It has no server until `tell`, through no fault of its own."""
        self.backend, self.state = None, "starting"

    @property
    def is_hopeless(self) -> bool:
        """Whether it has failed too often."""
        return self.faults >= FAULTS_MAX

    def tell(self) -> None:
        """Something that decides about its server has changed."""
        self._news.set()
        self._news = anyio.Event()

    async def news(self) -> None:
        """Wait for something that decides about its server."""
        await self._news.wait()

    def status(self) -> CandidateStatus:
        """What `GET /v1/serving` says of it."""
        return CandidateStatus(
            model_id=self.order.model_id,
            share=self.order.share,
            is_shadow=self.order.is_shadow,
            state=self.state,
            in_flight=self.backend.in_flight if self.backend else 0,
            requests=self.requests,
            failed=self.failed,
            dropped=self.dropped,
            error=self.error,
        )


def place(scenario: str, model_id: str, unit: str) -> float:
    """Where a task stands between 0 and 1, evenly spread; another order for each candidate, so that
    it is not always the same tasks that are tried upon.
    """
    text = f"{scenario}\0{model_id}\0{unit}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    return (number >> 11) / (1 << 53)  # as many bits as a float has: never 1.0
