"""The files that make up an adapter, and the digest by which a changed one is found out.

The worker takes the digest when an adapter is finished; whoever serves it later takes it again.
"""

import hashlib
from pathlib import Path
from typing import Final

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_GGUF: Final = "adapter.gguf"
ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_GGUF)
"""What the adapter's digest is taken over."""


def adapter_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the adapter's files; raises OSError."""
    return digest_of(*(folder / name for name in ADAPTER_FILES))


def digest_of(*paths: Path) -> str:
    """SHA-256 over the names and contents of files, independent of their order; hex."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name}\0{content}\n".encode())
    return total.hexdigest()
