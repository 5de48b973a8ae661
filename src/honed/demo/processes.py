"""The demo's children: `honed run` and `honed serve`, started and stopped by handle."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from honed.errors import ControlError
from honed.lifeline import end_with_parent

_GRACE_S: Final = 30.0
_TAIL_LINES: Final = 15


class Child:
    """A running `honed` process and its log."""

    def __init__(self, verb: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.verb = verb
        self._process = process
        self._log_path = log_path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Nothing while it lives.

        Raises:
            ControlError: it has ended; the message has its status, the advice the end of its log.
        """
        status = self._process.poll()
        if status is not None:
            raise ControlError(
                f"`honed {self.verb}` ended with status {status}",
                advice=f"end of {self._log_path}:\n{self.log_tail()}",
            )

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def resident_mb(self) -> float:
        """Its resident memory in MiB (`VmRSS`)."""
        self.check()
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ControlError(f"process {self.pid} has no VmRSS")

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace time; its processes are gone afterwards."""
        if self._process.poll() is None:
            self._process.terminate()
            with anyio.move_on_after(_GRACE_S) as grace:
                await anyio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
            if grace.cancelled_caught:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.asynccontextmanager
async def running(verb: str, config_path: Path, *, runtime_dir: Path) -> AsyncIterator[Child]:
    """Run `honed VERB --config CONFIG_PATH`, its log beside the config, while the context is open.

    Args:
        verb: `run` or `serve`.
        config_path: the file; settings of the caller's environment do not reach the child.
        runtime_dir: where its sockets go; a short path, because a socket's name is short.
    """
    child = _started(verb, config_path, runtime_dir)
    try:
        yield child
    finally:
        with anyio.CancelScope(shield=True):
            await child.stop()


def _started(verb: str, config_path: Path, runtime_dir: Path) -> Child:
    log_path = config_path.parent / f"{verb}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HONED_")}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "honed", verb, "--config", str(config_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment
            | {
                "HONED__RUNTIME_DIR": str(runtime_dir),
                "HONED__SERVE__SOCKET": str(runtime_dir / "serve.sock"),
            },
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )
    return Child(verb, process, log_path)
