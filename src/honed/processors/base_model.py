"""The base model as GGUF, converted once and kept."""

import hashlib
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal

from honed.domain.job import ExportBaseJob
from honed.processors.worker_process import DEFAULT_GRACE, run_job

FORMAT: Final = 1
"""Raised when the conversion changes, so that older files are not used."""
_WHOLE: Final = ("*.json", "*.jinja", "merges.txt")
"""Files whose content decides; of the weights, name, size and time do."""


async def ensure_gguf(
    base_model: str,
    folder: Path,
    *,
    outtype: Literal["f32", "f16"] = "f32",
    python: str = sys.executable,
    stop_grace: timedelta = DEFAULT_GRACE,
) -> Path:
    """The base model as a GGUF file in `folder`, converted in a worker when it is not there yet.

    Args:
        base_model: folder in Hugging Face's format, or a hub id. A changed folder is converted
            anew, a hub id once.

    Raises:
        TrainingError: the model cannot be converted; the message says why.
    """
    local = _local_folder(base_model)
    name = f"base-{_digest(base_model, local)}-{outtype}"
    path = _absolute(folder) / f"{name}.gguf"
    if _exists(path):
        return path
    # A folder of its own: daemon and gateway may both ask at the same time. The file itself appears
    # by a rename.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{name}-") as scratch:
        job = ExportBaseJob(
            base_model=str(local or base_model),
            output_path=str(path),
            result_path=str(Path(scratch) / "result.json"),
            outtype=outtype,
        )
        await run_job(job, Path(scratch), python=python, stop_grace=stop_grace)
    return path


def _local_folder(base_model: str) -> Path | None:
    """The model's folder; None when it is named by a hub id."""
    local = Path(base_model).expanduser()
    return local.absolute() if local.is_dir() else None


def _absolute(folder: Path) -> Path:
    """The worker has a working folder of its own."""
    return folder.absolute()


def _exists(path: Path) -> bool:
    """Whether the file is there already; else its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.is_file()


def _digest(base_model: str, local: Path | None) -> str:
    total = hashlib.sha256(f"{FORMAT}\0".encode())
    if local is None:
        total.update(base_model.encode())
        return total.hexdigest()[:16]
    for path in sorted(path for pattern in _WHOLE for path in local.glob(pattern)):
        total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    for path in sorted(local.glob("*.safetensors")):
        found = path.stat()
        total.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return total.hexdigest()[:16]
