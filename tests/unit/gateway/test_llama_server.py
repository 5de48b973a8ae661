"""A real llama-server: starts healthy, fails with a reason, ends when it is told to and with its
parent.
"""

import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec
import pytest

from honed.config import ServeSection
from honed.errors import HealthTimeoutError, ProbeFailedError, ServerStartError
from honed.gateway import llama_server, probe
from honed.gateway.llama_child import command_line
from honed.gateway.llama_server import ServerPlan
from honed.gateway.upstream import fetch
from honed.lifeline import descendants

pytestmark = pytest.mark.anyio


def plan(folder: Path, base: Path, adapter: Path | None = None, **section: object) -> ServerPlan:
    settings = {"ctx_size": 256, "parallel": 2, "threads": 1} | section
    return ServerPlan(
        name="tiny-blue",
        alias="tiny",
        base_gguf=base,
        adapter_gguf=adapter / "adapter.gguf" if adapter else None,
        section=ServeSection(**settings),  # type: ignore[arg-type]
        folder=folder,
    )


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_server_starts_answers_and_is_reaped(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """Healthy with its one adapter; after stop nothing of it is left but its log."""
    server = await llama_server.start(plan(tmp_path, tiny_gguf, tiny_adapters[0]))
    try:
        assert server.address is not None
        await server.check_adapters()
        assert (await fetch(server.address, "GET", "/health"))[0] == 200
        assert int((tmp_path / "tiny-blue.pid").read_text()) == server.pid
        fingerprint = probe.read_fingerprint(tiny_adapters[0])
        answers = await probe.ask(server.address, fingerprint)
        expected = [value for prompt in fingerprint.prompts for value in prompt.adapter]
        assert max(abs(a - b) for a, b in zip(answers, expected, strict=True)) < 0.05
    finally:
        await server.stop()
    assert not is_alive(server.pid)
    assert not (tmp_path / "tiny-blue.pid").exists()


@pytest.mark.feature("SE-120")
async def test_settings_make_the_command_line(tmp_path: Path) -> None:
    """Base model, address, port, GPU layers, context, slots, adapter and name are arguments; pid and log are files."""
    named = plan(
        tmp_path,
        tmp_path / "base.gguf",
        tmp_path / "tiny@1",
        llama_server=tmp_path / "llama-server",
        n_gpu_layers=7,
        threads=3,
        parallel=2,
        ctx_size=512,
    )
    line = command_line(msgspec.to_builtins(named.child_args()), port=4711)
    assert line[0] == str(tmp_path / "llama-server")
    options = dict(itertools.pairwise(line[1:]))
    assert (
        options
        | {
            "-m": str(tmp_path / "base.gguf"),
            "--host": "127.0.0.1",
            "--port": "4711",
            "-ngl": "7",
            "-c": "1024",  # of all slots together
            "-np": "2",
            "-t": "3",
            "-tb": "3",
            "-a": "tiny",
            "--lora": str(tmp_path / "tiny@1" / "adapter.gguf"),
        }
        == options
    )
    assert named.pid_path == tmp_path / "tiny-blue.pid"
    assert named.log_path == tmp_path / "tiny-blue.log"


async def test_slots_have_the_whole_context_each(tmp_path: Path, tiny_gguf: Path) -> None:
    """ctx_size is per slot: llama-server is given slots times ctx_size."""
    server = await llama_server.start(plan(tmp_path, tiny_gguf))
    try:
        assert server.address is not None
        _, body = await fetch(server.address, "GET", "/slots")
        assert body.count(b'"n_ctx":256') == 2
    finally:
        await server.stop()


async def test_server_without_its_adapter_is_found_out(
    tmp_path: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """The list of adapters must be the planned one."""
    server = await llama_server.start(plan(tmp_path, tiny_gguf))
    try:
        server.plan = plan(tmp_path, tiny_gguf, tiny_adapters[0])
        with pytest.raises(ProbeFailedError, match="should have adapters"):
            await server.check_adapters()
    finally:
        await server.stop()


@pytest.mark.feature("SE-123")
async def test_damaged_model_says_why(tmp_path: Path) -> None:
    """The error carries the server's own words."""
    damaged = tmp_path / "base.gguf"
    damaged.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ServerStartError, match=r"ended with status 1 .* E "):
        await llama_server.start(plan(tmp_path, damaged))


@pytest.mark.feature("SE-123")
async def test_server_that_is_not_ready_in_time_is_ended(tmp_path: Path, tiny_gguf: Path) -> None:
    """Another error than a failed start, and no process left."""
    early = plan(tmp_path, tiny_gguf, startup_timeout=timedelta(milliseconds=1))
    with pytest.raises(HealthTimeoutError, match="not healthy within"):
        await llama_server.start(early)
    assert not list(tmp_path.glob("*.pid"))


EXECUTABLE = """#!{python}
# llama.cpp's server as the operator's own program: the same command line, the bundled server
# inside.
import argparse, csv, json, signal, threading
import xllamacpp

parser = argparse.ArgumentParser()
for name in "-m --host --port -c -np -ngl -t -tb -a --threads-http -lv --cache-ram".split():
    parser.add_argument(name)
for name in ("--no-webui", "--metrics"):
    parser.add_argument(name, action="store_true", required=True)
parser.add_argument("--lora", action="append", default=[])
args = vars(parser.parse_args())
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = args["m"], [args["host"]], int(args["port"])
files = [file for row in csv.reader(args["lora"]) for file in row]
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(file, 1.0) for file in files]
params.n_ctx, params.n_parallel, params.verbosity = int(args["c"]), int(args["np"]), 1
params.cpuparams.n_threads, params.ui, params.fit_params = int(args["t"]), False, False
print("x" * 200_000, flush=True)  # nobody may wait for a reader of its stdout
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
server = xllamacpp.Server(params)
stop.wait()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable with llama-server's command line."""
    path = tmp_path / "llama-server"
    path.write_text(EXECUTABLE.format(python=sys.executable))
    path.chmod(stat.S_IRWXU)
    return path


async def test_executable_of_the_operator_is_run(
    tmp_path: Path, program: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """A program with llama-server's command line serves as the bundled one does."""
    named = plan(tmp_path, tiny_gguf, tiny_adapters[0], llama_server=program)
    server = await llama_server.start(named)
    try:
        await server.check_adapters()
    finally:
        await server.stop()
    assert not is_alive(server.pid)


async def test_adapters_of_a_shared_executable_answer_only_who_names_them(
    tmp_path: Path, program: Path, tiny_gguf: Path, tiny_adapters: tuple[Path, Path]
) -> None:
    """llama-server lists them with scale 1 at its start, without-apply or not: they are put to 0 before it serves."""
    moved = tmp_path / 'a, "b"'
    shutil.copytree(tiny_adapters[1], moved)
    residents = tuple(folder / "adapter.gguf" for folder in (tiny_adapters[0], moved))
    shared = replace(plan(tmp_path, tiny_gguf, llama_server=program), residents=residents)
    server = await llama_server.start(shared)
    try:
        await server.check_adapters()
        assert [scale for _, scale in shared.adapters] == [0.0, 0.0]
    finally:
        await server.stop()


WRAPPERS = {
    "waits": '"{program}" "$@"\necho ended',
    "leaves": '"{program}" "$@" &\nwait',
    "another session": 'setsid "{program}" "$@" &\nwait',
}
"""Scripts that start the server and do not become it."""


def wrapped(folder: Path, program: Path, manner: str) -> Path:
    """A shell script around `program`."""
    wrapper = folder / "wrapper"
    wrapper.write_text(f"#!/bin/sh\n{WRAPPERS[manner].format(program=program)}\n")
    wrapper.chmod(stat.S_IRWXU)
    return wrapper


@pytest.mark.parametrize("dies", [False, True])
async def test_wrapper_of_the_operator_leaves_no_server_behind(
    tmp_path: Path, program: Path, tiny_gguf: Path, dies: bool
) -> None:
    """A script that does not exec: the server under it ends too, also when its keeper was killed."""
    wrapper = wrapped(tmp_path, program, "waits")
    server = await llama_server.start(plan(tmp_path, tiny_gguf, llama_server=wrapper))
    try:
        started = descendants(server.pid)
        assert len(started) == 2
        if dies:
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()
    finally:
        await server.stop()
    assert not is_alive(server.pid)
    with anyio.fail_after(60):
        while any(map(is_alive, started)):
            await anyio.sleep(0.01)


async def test_server_inherits_no_keys(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that clients show, nor one of llama.cpp's own, which it would ask the gateway for."""
    for name in ("HONED_API_KEYS", "HONED_SERVER_KEY", "LLAMA_API_KEY", "LLAMA_ARG_TOP_K"):
        monkeypatch.setenv(name, f"value-of-{name}")
    server = await llama_server.start(plan(tmp_path, tiny_gguf))
    try:
        environment = Path(f"/proc/{server.pid}/environ").read_bytes()
    finally:
        await server.stop()
    assert b"value-of-LLAMA_ARG_TOP_K" in environment
    assert environment.count(b"value-of") == 1


async def test_executable_that_does_not_exist_says_so(tmp_path: Path, tiny_gguf: Path) -> None:
    """A wrong path in the config is a failed start."""
    with pytest.raises(ServerStartError, match="cannot be run: No such file"):
        await llama_server.start(plan(tmp_path, tiny_gguf, llama_server=tmp_path / "missing"))


PARENT = """
import sys, anyio
from pathlib import Path
from honed import log
from honed.config import ServeSection
from honed.gateway import llama_server

log.configure()

async def main():
    program = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    section = ServeSection(ctx_size=256, parallel=1, threads=1, llama_server=program)
    server = await llama_server.start(llama_server.ServerPlan(
        name="tiny-blue", alias="tiny", base_gguf=Path(sys.argv[1]), adapter_gguf=None,
        section=section, folder=Path(sys.argv[2])))
    print(server.pid, flush=True)
    await anyio.sleep(60)

anyio.run(main)
"""


def killed_parent(*arguments: Path) -> list[int]:
    """Start a server in a process of its own and kill that; everything that had been started."""
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            started = [pid, *descendants(pid)]
            assert all(map(is_alive, started))
        finally:
            parent.kill()
    return started


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a server outlived its parent"
        time.sleep(0.01)


def test_server_dies_with_the_gateway(tmp_path: Path, tiny_gguf: Path) -> None:
    """`kill -9` of the parent leaves no server behind."""
    started = killed_parent(tiny_gguf, tmp_path)
    assert len(started) == 1
    until_gone(started)


@pytest.mark.parametrize("manner", WRAPPERS)
def test_server_under_a_wrapper_dies_with_the_gateway(
    tmp_path: Path, program: Path, tiny_gguf: Path, manner: str
) -> None:
    """Nor does it leave what a script has started, in a session of its own or not."""
    started = killed_parent(tiny_gguf, tmp_path, wrapped(tmp_path, program, manner))
    assert len(started) == 3
    until_gone(started)
