"""What is examined: a config and this machine. What several checks need is looked up once."""

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import httpx
import msgspec

from honed.config import Config
from honed.domain.job import ExamineJob, ExamineResult
from honed.errors import ControlError
from honed.listen import is_listening
from honed.machine import gpus, memory, model
from honed.machine.proposals import KNOWN
from honed.processors import run_job

T = TypeVar("T")

WORKER_LIMIT: Final = timedelta(seconds=100)
"""How long the worker may take to say what it finds; importing torch on a busy machine takes long."""
_ASK_LIMIT_S: Final = 5.0


class Once(Generic[T]):
    """A value that is looked up when it is first needed, by whichever thread is first."""

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._found: T | None = None
        self._fault: Exception | None = None
        self._is_done = False

    def __call__(self) -> T:
        """The value; raises what the look-up raised."""
        with self._lock:
            if not self._is_done:
                try:
                    self._found = self._look()
                except Exception as fault:  # told to every check that asks
                    self._fault = fault
                self._is_done = True
        if self._fault is not None:
            raise self._fault
        return self._found  # type: ignore[return-value]


class Patient:
    """One scenario on this machine."""

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self.gpus = Once(gpus.gpus)
        self.memory = Once(memory.memory)
        self.base_folder: Once[Path | None] = Once(self._base_folder)
        self.shape: Once[model.Shape | None] = Once(self._shape)
        self.examined: Once[ExamineResult | None] = Once(self._examine)
        self.daemon: Once[dict[str, Any] | None] = Once(
            lambda: _ask(self.config.control_socket, "/v1/status")
        )
        self.gateway: Once[dict[str, Any] | None] = Once(
            lambda: _ask(self.config.serve_socket, "/v1/serving")
        )

    @property
    def config(self) -> Config:
        """The config, where it could be read."""
        assert self._config is not None, "checks that need a config are left out without one"
        return self._config

    @property
    def maybe_config(self) -> Config | None:
        """None where there is no usable config."""
        return self._config

    @property
    def base_gguf(self) -> Path | None:
        """The base model as GGUF, where it is there already."""
        config = self.config
        if config.serve.base_model_path is not None:
            path = config.serve.base_model_path.expanduser()
            return path if path.is_file() else None
        found = sorted(config.llama_dir.glob("base-*.gguf"), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    def _base_folder(self) -> Path | None:
        named = self._config.base_model if self._config else None
        return model.find(named) if named else None

    def _shape(self) -> model.Shape | None:
        folder = self.base_folder()
        if folder is not None:
            return model.shape(folder, model.read_config(folder))
        named = self._config.base_model if self._config else None
        return next((each.shape for each in KNOWN if each.name == named), None)

    def _examine(self) -> ExamineResult | None:
        """What the worker finds; None where the training stack is not installed."""
        if find_spec("torch") is None or find_spec("transformers") is None:
            return None
        folder = self.base_folder()
        with tempfile.TemporaryDirectory(prefix="honed-doctor-") as scratch:
            job = ExamineJob(
                base_model=str(folder) if folder else None,
                result_path=str(Path(scratch) / "result.json"),
            )
            found = anyio.run(_run, job, Path(scratch))
        assert isinstance(found, ExamineResult)
        return found


async def _run(job: ExamineJob, folder: Path) -> Any:
    return await run_job(job, folder, python=sys.executable, silence_limit=WORKER_LIMIT)


def _ask(socket: Path, path: str) -> dict[str, Any] | None:
    """What a running process answers; None when nobody listens. Raises ControlError."""
    if not os.path.lexists(socket) or not is_listening(socket):
        return None
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(verify=False, uds=str(socket)), timeout=_ASK_LIMIT_S
        ) as client:
            response = client.get(f"http://honed{path}").raise_for_status()
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except httpx.HTTPStatusError as error:
        fault = f"answers with {error.response.status_code}"
    except (httpx.HTTPError, msgspec.DecodeError) as error:
        fault = f"does not answer: {type(error).__name__}"
    raise ControlError(
        f"somebody listens on {socket}, but {fault}",
        advice="look at its log; end it with SIGTERM and start it again",
    )
