"""`python -m honed.gateway.llama_child ARGS.json`: one llama-server in a process of its own.

Prints `{"listening_address": ...}` as its only line on stdout once it knows it, logs to stderr,
ends on SIGTERM, and is killed by the kernel when the gateway dies. With an executable named it
becomes that program instead of the bundled server. Imports nothing of ours: it must start in a
tenth of a second.
"""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from honed.lifeline import end_with_parent

_HTTP_THREADS = 64  # each waiting request holds one; probes must not queue behind a swarm's streams
_ERRORS_ONLY = 1  # at 2 llama-server writes lines for every request, and nobody rotates the log


def main(path: str) -> None:
    """Run the server that the JSON file describes (`llama_server.ChildArgs`) until SIGTERM."""
    args: dict[str, Any] = json.loads(Path(path).read_text())
    # survives exec, not fork
    end_with_parent(signal.SIGKILL, parent=args["parent_pid"])
    if args["executable"]:
        _become(args)
    else:
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
    if args["adapter_gguf"]:
        line += ["--lora", args["adapter_gguf"]]
    line += [
        "-c",
        str(args["n_ctx"]),
        "-np",
        str(args["parallel"]),
        "-ngl",
        str(args["n_gpu_layers"]),
    ]
    line += ["-t", str(args["threads"]), "-tb", str(args["threads"]), "-a", args["alias"]]
    return [*line, "--no-webui", "--threads-http", str(_HTTP_THREADS), "-lv", str(_ERRORS_ONLY)]


def _become(args: dict[str, Any]) -> None:
    with (
        socket.socket() as probe
    ):  # the program needs a number; a lost race ends it, and the gateway says so
        probe.bind((args["host"], 0))
        port = probe.getsockname()[1]
    _tell(f"http://{args['host']}:{port}")
    os.dup2(
        2, 1
    )  # nobody reads the pipe from here on; whatever the program prints belongs into the log
    os.execv(args["executable"], command_line(args, port=port))


def _run_bundled(args: dict[str, Any]) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args["base_gguf"]
    if args["adapter_gguf"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(args["adapter_gguf"], 1.0)]
    params.hostnames, params.port = [args["host"]], 0
    params.n_ctx, params.n_parallel = args["n_ctx"], args["parallel"]
    params.n_gpu_layers = args["n_gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args["threads"]
    params.n_threads_http = _HTTP_THREADS
    params.model_alias = {args["alias"]}
    params.verbosity = _ERRORS_ONLY
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
