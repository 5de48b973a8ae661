"""The files that make up an adapter, and the digest by which a changed one is found out.

The worker takes the digest when an adapter is finished; whoever serves it later takes it again.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_GGUF: Final = "adapter.gguf"
ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_GGUF)
"""What the adapter's digest is taken over."""
MANIFEST_FILE: Final = "manifest.json"
"""Its lineage, written beside it."""


def adapter_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the adapter's files; raises OSError."""
    return digest_of(*(folder / name for name in ADAPTER_FILES))


def digest_of(*paths: Path) -> str:
    """SHA-256 over the names and contents of files, independent of their order; hex."""
    return combined_digest({path.name: file_digest(path) for path in paths})


def combined_digest(contents: Mapping[str, str]) -> str:
    """The same from the files' names and the digests of their contents."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{name}\0{contents[name]}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of one file's content, hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_adapter(folder: Path) -> None:
    """Remove an adapter's folder; any other folder, or none, is left alone; raises OSError."""
    if (folder / ADAPTER_CONFIG).is_file():
        shutil.rmtree(folder)
