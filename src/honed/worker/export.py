"""The adapter folder: PEFT's files in their published form, the GGUF beside them."""

import json
from pathlib import Path
from typing import Any

from honed.adapter_files import ADAPTER_CONFIG
from honed.worker.architectures import Architecture
from honed.worker.files import write_file
from honed.worker.gguf_lora import write_adapter


def export_adapter(folder: Path, config: Any, architecture: Architecture) -> None:
    """Bring what PEFT saved in `folder` into its published form and add `adapter.gguf`.

    Equal weights and settings give equal files, byte for byte.

    Raises:
        TrainingError: the adapter holds something that llama.cpp cannot apply.
    """
    publish_form(folder)
    write_adapter(folder, config, architecture)


def publish_form(folder: Path) -> None:
    """PEFT's files as they are published: equal settings give equal files."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / ADAPTER_CONFIG
    settings = json.loads(path.read_text())
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"].sort()  # PEFT keeps them in a set
    write_file(path, json.dumps(settings, indent=2, sort_keys=True).encode())


def name_base(folder: Path, base_model: str) -> None:
    """Say in the adapter's config which base model it is of: a hub id, not where this machine keeps it."""
    path = folder / ADAPTER_CONFIG
    settings = json.loads(path.read_text()) | {"base_model_name_or_path": base_model}
    write_file(path, json.dumps(settings, indent=2, sort_keys=True).encode())
