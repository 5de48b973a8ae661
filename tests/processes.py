"""The real daemon and gateway as child processes, for flow tests: started, asked, killed, always reaped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from honed.listen import is_listening

ROOT = Path(__file__).parent.parent
T = TypeVar("T")


class Honed:
    """One scenario's folder and the processes that work on it."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.data_dir = folder / "data"
        self.config = folder / "honed.toml"
        self.config.write_text(f'data_dir = "{self.data_dir}"\n{settings}\n')
        self.serve_socket = folder / "serve.sock"
        self._log = folder / "processes.log"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        verb: str,
        *,
        before: Sequence[str] = (sys.executable, "-m", "honed"),
        variables: Mapping[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        is_awaited: bool = True,
        stdin: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start `honed run` or `honed serve` and wait until it answers.

        Args:
            verb: `run`, `serve` or `up`.
            before: the command line up to the verb.
            variables: further ones of its environment.
            pass_fds: descriptors that it inherits; a socket among them answers before the process does.
            is_awaited: False comes back at once, where what was there before may still answer.
            stdin: its terminal, say; None for this process's.
        """
        self._settle_secret()
        environment = os.environ | {"HONED__SERVE__SOCKET": str(self.serve_socket)}
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [*before, verb, "--config", str(self.config)],
                env=environment | (variables or {}),
                cwd=ROOT,
                stdin=stdin,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        self.running[verb] = child
        if not is_awaited:
            return child
        if verb == "up":
            self.until(lambda: self._alive(child) and self.is_up(), "both answer")
            return child
        # asked only once somebody listens: httpcore leaks the socket of a refused connection
        path = self.data_dir / "feed.sock" if verb == "run" else self.serve_socket
        self.until(lambda: self._alive(child) and is_listening(path), f"honed {verb} answers")
        return child

    def _settle_secret(self) -> None:
        """What is held out is the same in every run of a test."""
        secret = self.data_dir / "secret.key"
        if secret.exists() or (self.data_dir / "honed.db").exists():
            return
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret.touch(mode=0o600)
        secret.write_bytes(b"s" * 32)

    def is_up(self) -> bool:
        """Whether daemon and gateway both answer."""
        if not (is_listening(self.data_dir / "control.sock") and is_listening(self.serve_socket)):
            return False
        try:
            self.status(), self.serving()
        except httpx.HTTPError:  # `honed up` listens for them while they are started
            return False
        return True

    def _alive(self, child: subprocess.Popen[bytes]) -> bool:
        if child.poll() is not None:
            raise AssertionError(f"it ended with {child.returncode}:\n{self.log_tail()}")
        return True

    def kill(self, verb: str) -> None:
        """kill -9, as the kernel does when memory is short."""
        child = self.running.pop(verb)
        child.kill()
        child.wait(10)

    def stop(self, verb: str) -> int:
        """SIGTERM; returns the exit status."""
        child = self.running.pop(verb)
        child.send_signal(signal.SIGTERM)
        return child.wait(40)

    def ask(self, method: str, path: str, body: Any = None, *, socket: Path | None = None) -> Any:
        """One request to the control API (or to another socket)."""
        transport = httpx.HTTPTransport(uds=str(socket or self.data_dir / "control.sock"))
        with httpx.Client(transport=transport, timeout=60) as client:
            response = client.request(method, f"http://honed{path}", json=body)
        response.raise_for_status()
        return response.json()

    def status(self) -> dict[str, Any]:
        """What `honed status` shows."""
        answer: dict[str, Any] = self.ask("GET", "/v1/status")
        return answer

    def serving(self) -> dict[str, Any]:
        """What the gateway serves."""
        answer: dict[str, Any] = self.ask("GET", "/v1/serving", socket=self.serve_socket)
        return answer

    def run(self, run_id: str) -> dict[str, Any] | None:
        """A run by its id, once it has ended."""
        runs = {run["id"]: run for run in self.ask("GET", "/v1/runs")["runs"]}
        found: dict[str, Any] | None = runs.get(run_id)
        return found if found and found["state"] != "running" else None

    def model(self, model_id: str) -> dict[str, Any]:
        """A trained model by its id."""
        models = {model["id"]: model for model in self.ask("GET", "/v1/models")["models"]}
        found: dict[str, Any] = models[model_id]
        return found

    def until(self, look: Callable[[], T | None], what: str, *, limit_s: float = 60) -> T:
        """Wait until `look` finds something true; fails with the processes' log after the limit."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {limit_s:g} s in vain until {what}\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the processes wrote."""
        return self._log.read_text()[-4000:]

    def children(self, verb: str) -> list[int]:
        """Pids of the children of a running process."""
        pid = self.running[verb].pid
        found: list[int] = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
        return found

    def end(self) -> None:
        """Stop everything; nothing may be left behind."""
        for verb in list(self.running):
            child = self.running.pop(verb)
            child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)


@contextlib.contextmanager
def honed(folder: Path, settings: str) -> Iterator[Honed]:
    """A folder with a config; processes that are started in it are ended with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Honed(folder, settings)
    try:
        yield found
    finally:
        found.end()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM now."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
