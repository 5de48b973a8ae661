"""Somebody who has another version served again and again, and what may be in service after each order."""

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

_TIMEOUT_S: Final = 90

Fate = Literal["done", "refused", "unknown", "unheard"]
"""Unknown: the daemon that had it has ended. Unheard: none was there."""


class Order(NamedTuple):
    """One order to serve another version."""

    began_s: float
    ended_s: float
    fate: Fate
    why: str = ""


class Operator:
    """Orders through the daemon's control socket, as `honed apply` does."""

    def __init__(self, control: Path, versions: list[str], *, seed: int) -> None:
        """The first of the versions is in service."""
        self._control = control
        self._versions = versions
        self._chance = random.Random(f"operator/{seed}")
        self.turn = threading.RLock()
        """Held while something is ordered."""
        self.in_service = {versions[0]}
        """What may be in service now: more than one after an order of which nobody knows whether it was carried out."""
        self.meant = {versions[0]}
        """What was in service when everything was seen to be well, and what was ordered since."""
        self.orders: list[Order] = []
        self.lasts_s = 0.5
        """How long the last switch took."""

    @contextlib.contextmanager
    def ordering(self) -> Iterator[None]:
        """Order another version again and again until the context ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._order_on, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(2 * _TIMEOUT_S)

    def another(self) -> str:
        """A version that is not in service."""
        return self._chance.choice([each for each in self._versions if each not in self.in_service])

    def ask(self, path: str, body: dict[str, Any]) -> Order:
        """Order something of the daemon; what became of that."""
        began_s = time.monotonic()
        connection = _Local(self._control)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as error:
                return Order(began_s, time.monotonic(), "unheard", repr(error))
            try:
                connection.request("POST", path, json.dumps(body))
                answer = connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                return Order(began_s, time.monotonic(), "unknown", repr(error))
        fate: Fate = "done" if answer.status == 200 else "refused"
        return Order(began_s, time.monotonic(), fate, said.decode())

    def _order_on(self, stop: threading.Event) -> None:
        while not stop.wait(self._chance.uniform(0.05, 0.4)):
            with self.turn:
                target = self.another()
                self.meant.add(target)
                order = self.ask("/v1/apply", {"model_id": target, "force": True})
                self.orders.append(order)
                if order.fate == "done":
                    self.in_service = {target}
                    self.lasts_s = order.ended_s - order.began_s
                elif order.fate == "unknown":
                    self.in_service.add(target)


class _Local(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))
