"""One llama-server process: started with a base model and its adapters, checked, stopped, reaped.

llama-server cannot load an adapter while it runs, and its prompt cache leaks between adapters that
share a process (facts in docs/serving.md). So a lone adapter is applied at start with scale 1 and
the process is never told otherwise; several are there with scale 0, and each request names its own.
"""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import Process
from msgspec import Struct

from honed import log
from honed.config import ServeSection
from honed.errors import HealthTimeoutError, ProbeFailedError, ServerStartError
from honed.gateway import server_log
from honed.gateway.gpu import fitting_layers
from honed.gateway.upstream import Address, UpstreamError, fetch

_STOP_GRACE_S: Final = 1.0
_OURS: Final = ("HONED_", "LLAMA_API_KEY")
"""Variables that end at the gateway."""
_HEALTH_EVERY_S: Final = 0.02


class ChildArgs(Struct, frozen=True, kw_only=True):
    """What `llama_child` is told, as a JSON file."""

    parent_pid: int
    executable: str | None
    base_gguf: str
    adapters: list[str]
    """All at scale 1; those of a shared server are set to 0 when it has started."""
    alias: str
    host: str
    n_ctx: int
    """Of all slots together; llama-server divides it among them."""
    parallel: int
    threads: int
    n_gpu_layers: int
    keeps_prompts: bool
    """Whether prompts are cached in the host's memory; adapters exchanged in place would leak through it."""


class _Lora(Struct):
    path: str
    scale: float


class _Told(Struct):
    listening_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Everything that decides how one server is started."""

    name: str
    """Names its files; two servers that run at a time have different ones."""
    alias: str
    """The `model` that its answers carry."""
    base_gguf: Path
    adapter_gguf: Path | None
    """What answers everything; None is the bare base, or a shared server."""
    residents: tuple[Path, ...] | None = None
    """Of a shared server: adapters that a request may name, by their place."""
    section: ServeSection
    folder: Path
    """For pid, log and argument files."""

    def child_args(self) -> ChildArgs:
        """The plan as the child reads it."""
        section = self.section
        return ChildArgs(
            parent_pid=os.getpid(),
            executable=str(section.llama_server.expanduser()) if section.llama_server else None,
            base_gguf=str(self.base_gguf),
            adapters=[path for path, _ in self.adapters],
            alias=self.alias,
            host="127.0.0.1",
            n_ctx=section.ctx_size * section.parallel,
            parallel=section.parallel,
            threads=section.threads or max(1, (os.cpu_count() or 2) - 1),
            n_gpu_layers=fitting_layers(section, self.base_gguf),
            keeps_prompts=section.strategy != "in_place" and self.residents is None,
        )

    @property
    def adapters(self) -> list[tuple[str, float]]:
        """The adapters that the server should list when it has started, with their scales."""
        if self.residents is not None:
            return [(str(path), 0.0) for path in self.residents]
        return [(str(self.adapter_gguf), 1.0)] if self.adapter_gguf else []

    @property
    def log_path(self) -> Path:
        """What the server wrote to stderr."""
        return self.folder / f"{self.name}.log"

    @property
    def pid_path(self) -> Path:
        """The server's process id, while it runs."""
        return self.folder / f"{self.name}.pid"


class LlamaServer:
    """A running llama-server. Made by `start`; ended by `stop`, whatever happens in between."""

    def __init__(self, plan: ServerPlan, process: Process) -> None:
        self.plan = plan
        self.address: Address | None = None
        self.is_stopping = False
        self.answers_with = plan.adapter_gguf
        """The adapter that it was put to answer with; None is the bare base."""
        self.is_exchanging = False
        """Whether that is just being changed."""
        self.verdict: str | None = None
        """Why the gateway ended it, where that was not a stop."""
        self._process = process

    @property
    def is_external(self) -> bool:
        """Whether it is the operator's own, and none of our processes."""
        return False

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Wait until the process ends; returns its status, negative for a signal."""
        return await self._process.wait()

    async def stop(self, *, grace_s: float = _STOP_GRACE_S) -> None:
        """End the process and what it has started: SIGTERM, then SIGKILL; reaped when this returns,
        cancelled or not.

        Args:
            grace_s: between the two. 0 for a server with requests in flight: SIGTERM would freeze
                its streams at once and cut them only after 30 s.
        """
        self.is_stopping = True
        with anyio.CancelScope(shield=True):
            # Until it listens, its SIGTERM handler cannot run (the constructor holds the GIL).
            if not self.has_ended and self.address is not None and grace_s > 0:
                self._signal(signal.SIGTERM)
                with anyio.move_on_after(grace_s):
                    await self._process.wait()
            # Also when it has ended: an operator's wrapper may have left the real server behind.
            self._signal(signal.SIGKILL)
            await self._process.wait()
            await self._process.aclose()
            self.plan.pid_path.unlink(missing_ok=True)
        log.get(server=self.plan.name).info(log.SERVER_STOPPED, pid=self.pid)

    def kill(self, verdict: str) -> None:
        """End a server that hangs, as if it had died; whoever waits for it finds the verdict."""
        self.verdict = verdict
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group: the process leads a session of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def faults(self) -> str:
        """The last error lines of the server's log."""
        return server_log.faults(self.plan.log_path)

    async def check_adapters(self) -> None:
        """See that the server has exactly the planned adapters, at their scales.

        Raises:
            ProbeFailedError: it has another one, or does not answer.
        """
        assert self.address is not None
        wanted = self.plan.adapters
        try:
            status, body = await fetch(self.address, "GET", "/lora-adapters")
            found = [
                (each.path, each.scale) for each in msgspec.json.decode(body, type=list[_Lora])
            ]
        except (UpstreamError, msgspec.DecodeError) as error:
            raise ProbeFailedError(f"{self.plan.name}: /lora-adapters: {error}") from error
        if status != 200 or found != wanted:
            raise ProbeFailedError(
                f"{self.plan.name} should have adapters {wanted}, but lists {found} ({status})"
            )


async def start(plan: ServerPlan) -> LlamaServer:
    """Start a server and wait until it is healthy.

    Raises:
        ServerStartError: it ended before it was healthy, or could not be started at all.
        HealthTimeoutError: it was not healthy within `startup_timeout`; it has been stopped.
    """
    if plan.section.llama_server is None:
        _see_that_bundled_is_installed()
    server = LlamaServer(plan, await _spawn(plan))
    try:
        plan.pid_path.write_text(f"{server.pid}\n")
        await _healthy(server)
        if plan.residents:
            await _apply_none(server, len(plan.residents))
    except BaseException as error:
        await server.stop()
        if isinstance(error, OSError):
            raise ServerStartError(f"{plan.name} could not be started: {error}") from error
        raise
    log.get(server=plan.name).info(log.SERVER_STARTED, pid=server.pid, address=str(server.address))
    return server


async def _apply_none(server: LlamaServer, num_adapters: int) -> None:
    """Have a request that names no adapter be answered by none; `--lora-init-without-apply`, the program's and the
    wheel's, leaves all of them at scale 1 for requests (docs/facts.md).
    """
    assert server.address is not None
    scales = [{"id": number, "scale": 0.0} for number in range(num_adapters)]
    try:
        status, body = await fetch(
            server.address, "POST", "/lora-adapters", msgspec.json.encode(scales)
        )
    except UpstreamError as error:
        raise ServerStartError(f"{server.plan.name}: POST /lora-adapters: {error}") from error
    if status != 200:
        told = body[:200].decode(errors="replace")
        raise ServerStartError(
            f"{server.plan.name} answered POST /lora-adapters with {status}: {told}"
        )


def _see_that_bundled_is_installed() -> None:
    from importlib.util import find_spec

    if find_spec("xllamacpp") is None:
        raise ServerStartError(
            "there is no llama-server: the package xllamacpp is not installed",
            advice="pip install 'honed[serve]', or name an executable in serve.llama_server",
        )


async def _spawn(plan: ServerPlan) -> Process:
    try:
        plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        args_path = plan.folder / f"{plan.name}.args.json"
        args = await to_thread.run_sync(plan.child_args)
        args_path.write_bytes(msgspec.json.encode(args))
        with server_log.begin(plan.log_path) as stderr:
            # A session of its own: Ctrl-C in a terminal reaches the gateway alone, which drains
            # first.
            with anyio.CancelScope(shield=True):  # cancelled half-way, nobody would own the child
                process = await anyio.open_process(
                    [sys.executable, "-m", "honed.gateway.llama_child", str(args_path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=_environment(),
                    start_new_session=True,
                )
    except OSError as error:
        raise ServerStartError(f"{plan.name} could not be started: {error}") from error
    return process


def _environment() -> dict[str, str]:
    """What a server inherits: nothing of ours, keys of clients least of all; nor one that it would ask us for."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}


async def _healthy(server: LlamaServer) -> None:
    timeout_s = server.plan.section.startup_timeout.total_seconds()
    try:
        with anyio.fail_after(timeout_s):
            server.address = await _address(server)
            while not await _answers_health(server.address):
                if server.has_ended:
                    raise await _died(server)
                await anyio.sleep(_HEALTH_EVERY_S)
    except TimeoutError:
        raise HealthTimeoutError(
            f"{server.plan.name} was not healthy within {timeout_s:.0f} s: {server.faults()}",
            advice=f"see {server.plan.log_path}; raise serve.startup_timeout for a large model",
        ) from None


async def _address(server: LlamaServer) -> Address:
    """The address that the child prints; the bundled server prints it when the model is loaded."""
    assert server._process.stdout is not None
    line = b""
    async for chunk in server._process.stdout:
        line += chunk
        if b"\n" in line:
            return Address.parse(msgspec.json.decode(line, type=_Told).listening_address)
    raise await _died(server)


async def _died(server: LlamaServer) -> ServerStartError:
    status = await server.wait()
    return ServerStartError(
        f"{server.plan.name} ended with status {status} before it was healthy: {server.faults()}",
        advice=f"see {server.plan.log_path}",
    )


async def _answers_health(address: Address) -> bool:
    try:
        status, _ = await fetch(address, "GET", "/health")
    except UpstreamError:
        return False
    return status == 200
