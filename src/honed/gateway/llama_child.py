"""`python -m honed.gateway.llama_child ARGS.json`: one llama-server in a process of its own.

Prints `{"listening_address": ...}` as its only line on stdout once it knows it, logs to stderr,
ends on SIGTERM, and is killed by the kernel when the gateway dies. With an executable named it
runs that program instead of the bundled server and stays as its keeper: what the program has started
ends with the gateway too, whatever script or session is in between. Imports next to nothing of ours:
it must start in a tenth of a second.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from honed.lifeline import adopt_orphans, descendants, end_with_parent

HTTP_THREADS = 64  # each waiting request holds one; probes must not queue behind a swarm's streams
_ERRORS_ONLY = 1  # at 2 llama-server writes lines for every request


def main(path: str) -> None:
    """Run the server that the JSON file describes (`llama_server.ChildArgs`) until SIGTERM."""
    args: dict[str, Any] = json.loads(Path(path).read_text())
    if args["executable"]:
        _keep(args)
    end_with_parent(signal.SIGKILL, parent=args["parent_pid"])
    _run_bundled(args)


def command_line(args: dict[str, Any], *, port: int) -> list[str]:
    """The arguments of llama.cpp's `llama-server` that mean the same as `_run_bundled`."""
    line = [
        args["executable"],
        "-m",
        args["base_gguf"],
        "--host",
        args["host"],
        "--port",
        str(port),
    ]
    for adapter in args["adapters"]:
        line += ["--lora", listed(adapter)]
    line += [
        "-c",
        str(args["n_ctx"]),
        "-np",
        str(args["parallel"]),
        "-ngl",
        str(args["n_gpu_layers"]),
    ]
    line += ["-t", str(args["threads"]), "-tb", str(args["threads"]), "-a", args["alias"]]
    if not args["keeps_prompts"]:
        line += ["--cache-ram", "0"]
    return [
        *line,
        "--metrics",
        "--no-webui",
        "--threads-http",
        str(HTTP_THREADS),
        "-lv",
        str(_ERRORS_ONLY),
    ]


def listed(path: str) -> str:
    """A path as llama-server reads it from a list with commas, where it would not come out whole."""
    if "," not in path and not path.startswith('"'):
        return path
    return '"' + path.replace('"', '""') + '"'


def _keep(args: dict[str, Any]) -> NoReturn:
    """Run the operator's program until it ends; end all of it when the gateway dies.

    The kernel's death signal reaches a child, not what a script of the operator's has started. So the
    signal comes here, where everything that is left without a parent belongs as well.
    """
    # Before anything is started; the gateway signals the whole group, so the program hears SIGTERM itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, _end_all)
    adopt_orphans()
    end_with_parent(signal.SIGHUP, parent=args["parent_pid"])
    with socket.socket() as probe:
        # the program needs a number; a lost race ends it, and the gateway says so
        probe.bind((args["host"], 0))
        port = probe.getsockname()[1]
    try:
        program = subprocess.Popen(
            command_line(args, port=port),
            stdin=subprocess.DEVNULL,
            # nobody reads the pipe once the address is told; what the program prints belongs into the log
            stdout=2,
            preexec_fn=partial(_begin, os.getpid()),
        )
    except OSError as error:
        sys.exit(f"{args['executable']} cannot be run: {error.strerror}")
    _tell(f"http://{args['host']}:{port}")
    status = program.wait()
    sys.exit(128 - status if status < 0 else status)


def _begin(keeper: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an ignored signal stays so over exec
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL, parent=keeper)


def _end_all(number: int, frame: FrameType | None) -> NoReturn:
    while found := descendants(os.getpid()):  # one that is killed leaves its children to us
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
    os._exit(128 + number)


def _run_bundled(args: dict[str, Any]) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args["base_gguf"]
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in args["adapters"]]
    params.hostnames, params.port = [args["host"]], 0
    params.n_ctx, params.n_parallel = args["n_ctx"], args["parallel"]
    params.n_gpu_layers = args["n_gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args["threads"]
    params.n_threads_http = HTTP_THREADS
    params.model_alias = {args["alias"]}
    params.verbosity = _ERRORS_ONLY
    params.endpoint_metrics = True
    if not args["keeps_prompts"]:
        params.cache_ram_mib = 0
    params.ui = params.fit_params = False
    try:
        server = xllamacpp.Server(params)  # blocks until the model is loaded
    except RuntimeError as error:
        sys.exit(str(error))  # the cause stands above it in the log
    _tell(server.listening_address)
    stop.wait()
    del server


def _tell(address: str) -> None:
    sys.stdout.write(json.dumps({"listening_address": address}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
