"""The llama-server that would serve: found, asked for its version, and for the devices it can use."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from honed.errors import ServerStartError
from honed.machine.program import Answer, ask

_LIMIT_S: Final = 20.0
_BUNDLED: Final = """
import json, xllamacpp
cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
devices = [d["name"] + ": " + d["description"] for d in xllamacpp.get_device_info() if d["type"] != cpu]
print(json.dumps({"devices": devices, "system": xllamacpp.get_system_info()}))
"""
"""Asked in a process of its own: a build that the CPU cannot run ends with a signal."""


@dataclass(frozen=True, slots=True)
class Program:
    """A llama-server that runs on this machine."""

    path: Path | None
    """None: the one bundled in the package xllamacpp."""
    version: str
    devices: tuple[str, ...]
    """GPUs that it can use; empty for a CPU build, and where there is none."""

    def __str__(self) -> str:
        where = str(self.path) if self.path else "bundled"
        return f"{where}, {self.version}, {', '.join(self.devices) or 'CPU only'}"


def on_path() -> Path | None:
    """The `llama-server` of the search path."""
    found = shutil.which("llama-server")
    return Path(found).absolute() if found else None


def bundled_version() -> str | None:
    """Version of the package that bundles a llama-server; None when it is not installed."""
    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None


def program(path: Path | None) -> Program:
    """Ask a llama-server what it is.

    Args:
        path: its executable; None for the bundled one.

    Raises:
        ServerStartError: it is not there, or does not run on this machine.
    """
    return _bundled() if path is None else _executable(path.expanduser())


def _bundled() -> Program:
    found = bundled_version()
    if found is None:
        raise ServerStartError(
            "there is no llama-server: the package xllamacpp is not installed",
            advice="pip install 'honed[serve]', or name an executable in serve.llama_server",
        )
    answer = ask([sys.executable, "-c", _BUNDLED], limit_s=_LIMIT_S)
    if answer.status != 0:
        raise ServerStartError(
            f"the bundled llama-server (xllamacpp {found}) does not run: {_why(answer)}",
            advice="name an executable that was built for this machine in serve.llama_server",
        )
    return Program(None, f"xllamacpp {found}", tuple(json.loads(answer.stdout)["devices"]))


def _executable(path: Path) -> Program:
    advice = "name llama.cpp's llama-server in serve.llama_server, or leave the key out"
    if not path.is_file():
        raise ServerStartError(f"llama-server {path} does not exist", advice=advice)
    if not os.access(path, os.X_OK):
        raise ServerStartError(f"llama-server {path} is not executable", advice=f"chmod +x {path}")
    answer = ask([str(path), "--version"], limit_s=_LIMIT_S)
    words = answer.stderr + answer.stdout
    line = next((line for line in words.splitlines() if line.startswith("version:")), None)
    if answer.status != 0 or line is None:
        raise ServerStartError(
            f"llama-server {path} does not tell its version: {_why(answer)}", advice=advice
        )
    return Program(path, f"build {line.removeprefix('version:').strip()}", _devices(path))


def _devices(path: Path) -> tuple[str, ...]:
    """Lines under `Available devices:`, as `CUDA0: NVIDIA ... (81559 MiB, 80000 MiB free)`."""
    answer = ask([str(path), "--list-devices"], limit_s=_LIMIT_S)
    lines = answer.stdout.partition("Available devices:")[2].splitlines()
    return tuple(line.strip() for line in lines if ": " in line)


def _why(answer: Answer) -> str:
    if answer.status is not None and answer.status < 0:
        return f"signal {-answer.status} (an instruction that this CPU lacks is signal 4)"
    return answer.last_words
