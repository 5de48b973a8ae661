"""A gateway and a daemon that are started again at once when they were killed, as systemd does; and their servers,
found by pid files and /proc's lists of children, never by name.
"""

import contextlib
import random
import re
import socket
import sqlite3
from pathlib import Path
from typing import Any, Final, Literal

from honed.lifeline import descendants
from tests.faults.chaos import MARK, kill_now, marked
from tests.processes import Honed

Strategy = Literal["blue_green", "hold"]
_VERSION: Final = re.compile(r"tiny@\d+")
_LISTENS: Final = "0A"


class KilledService:
    """`honed serve` at a port that stays, and `honed run`."""

    def __init__(self, loop: Honed, *, port: int, mark: str) -> None:
        self.loop = loop
        self.port = port
        self._mark = mark
        self._llama = loop.data_dir / "llama"
        self._endpoint = self._llama / "tiny.endpoint"

    def begin(self, strategy: Strategy) -> None:
        """Start both for the first time."""
        self._start("serve", strategy, is_awaited=False)
        self.start("run")
        self.loop.until(lambda: self._accepts() and self.loop.is_up(), "both answer")

    def start(self, verb: Literal["run", "serve"], strategy: Strategy = "blue_green") -> None:
        """Start one of both, and wait until it takes connections."""
        self._start(verb, strategy, is_awaited=True)
        if verb == "serve":
            self.loop.until(self._accepts, "the gateway takes connections")

    def _start(self, verb: str, strategy: Strategy, *, is_awaited: bool) -> None:
        variables = {MARK: self._mark, "HONED__SERVE__STRATEGY": strategy}
        self.loop.start(verb, variables=variables, is_awaited=is_awaited)

    def kill(self, verb: Literal["run", "serve"]) -> tuple[float, float]:
        """kill -9; when it was sent, and when nothing of the process was left."""
        child = self.loop.running.pop(verb)
        moments = kill_now(child.pid)
        child.wait(10)
        return moments

    def _accepts(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
            return True
        return False

    # ------------------------------------------------------------ its processes

    def servers(self) -> dict[int, str]:
        """The llama-servers that the gateway has written down and still has, and their versions."""
        children = set(descendants(self.loop.running["serve"].pid))
        found = {}
        for path in self._llama.glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                if (pid := int(path.read_text())) in children:
                    version = _VERSION.search(path.with_suffix(".args.json").read_text())
                    found[pid] = version[0] if version else "base"
        return found

    def address(self) -> str:
        """Of the server that answers now; empty while none does."""
        with contextlib.suppress(OSError):
            return self._endpoint.read_text().strip()
        return ""

    def live(self) -> tuple[int, str] | None:
        """The server that answers now, and its version."""
        address = self.address()
        found = self.servers().items()
        return next((each for each in found if address in listens_at(each[0])), None)

    def alone(self) -> tuple[int, str, str] | None:
        """The server that answers while there is no other one: pid, version, address."""
        address, servers = self.address(), self.servers()
        if len(servers) != 1:
            return None
        [(pid, version)] = servers.items()
        return (pid, version, address) if address in listens_at(pid) else None

    def strays(self) -> list[int]:
        """Processes that were started here, and are neither gateway nor daemon nor a server of the gateway's."""
        known = {child.pid for child in self.loop.running.values()} | self.servers().keys()
        return [pid for pid in marked(self._mark) if pid not in known]

    # ------------------------------------------------------------ what it says

    def lane(self) -> dict[str, Any]:
        """What the gateway says of it."""
        lane: dict[str, Any] = self.loop.serving()["scenarios"]["tiny"]
        return lane

    def is_whole(self) -> bool:
        """Whether gateway and daemon agree on what is served, nothing is on its way, and each server is there once."""
        lane = self.lane()
        if lane["state"] != "active" or not lane["is_serving"]:
            return False
        trial = lane["candidate"]
        if trial is not None and trial["state"] != "active":
            return False
        versions = [lane["model_id"], *([trial["model_id"]] if trial else [])]
        is_agreed = lane["model_id"] == self.loop.status()["current_model"]
        return is_agreed and sorted(versions) == sorted(self.servers().values())

    def is_stored(self) -> bool:
        """Whether every captured call is in the daemon's store."""
        captured = self.lane()["captured"]
        is_sent = captured["queued"] == captured["spooled"] == 0
        return bool(is_sent and self.loop.status()["queue_depth"] == 0)

    def stored(self) -> list[str]:
        """Ids of the calls in the store, as often as they are there."""
        with contextlib.closing(sqlite3.connect(self.loop.data_dir / "honed.db")) as db:
            return [row[0] for row in db.execute("SELECT event_id FROM records")]


def listens_at(pid: int) -> list[str]:
    """The addresses at which a process takes connections, as its endpoint file has them."""
    inodes = set()
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(each.readlink().name.removeprefix("socket:[").removesuffix("]"))
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        ports = [row[1].split(":")[1] for row in rows if row[3] == _LISTENS and row[9] in inodes]
        return [f"http://127.0.0.1:{int(port, 16)}" for port in ports]
    return []


def stable_port() -> int:
    """A free port that no connection gets for its own end while the gateway is away: below those that Linux lends."""
    lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, lent - 20_000), lent)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
