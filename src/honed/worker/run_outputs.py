"""What a stand-alone run leaves behind beside the adapter: tokenizer, card, merged model, GGUF, upload."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from honed.adapter_files import MANIFEST_FILE
from honed.domain.running import Quantization, RunJob
from honed.errors import TrainingError
from honed.worker.files import sync, sync_folder, whole_file
from honed.worker.gguf_base import OutType, write_base

_WRITTEN_HERE: Final[dict[Quantization, OutType]] = {"Q8_0": "q8_0", "f16": "f16", "bf16": "bf16"}
"""Types that need no tool of llama.cpp."""
_QUANTIZE_SECONDS_MAX: Final = 6 * 3600.0


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A folder to fill in the body; it takes the place of `folder` when the body ends well."""
    former = folder.with_name(f".{folder.name}.former")
    if former.exists() and not folder.exists():
        former.replace(folder)  # a run was cut off between the two renames
    shutil.rmtree(former, ignore_errors=True)
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        sync_folder(aside)
        if folder.exists():
            folder.replace(former)
        aside.replace(folder)
        sync(folder.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_merged(job: RunJob, base: Path, adapter: Path, tokenizer: Any) -> None:
    """The merged model in 16 bits, and as GGUF, as far as they were asked for.

    Raises:
        TrainingError: llama-quantize failed.
        UnsupportedError: the model cannot be written to GGUF.
    """
    if job.merged_path is not None:
        with published(Path(job.merged_path)) as folder:
            _merge(base, adapter, folder, tokenizer, job)
    if job.gguf_path is None:
        return
    path = Path(job.gguf_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".merged") as scratch:
        merged = Path(job.merged_path or scratch)
        if job.merged_path is None:
            _merge(base, adapter, merged, tokenizer, job)
        if job.gguf_quantization in _WRITTEN_HERE:
            write_base(merged, path, outtype=_WRITTEN_HERE[job.gguf_quantization])
        else:
            _quantise(merged, path, Path(scratch), job)


def _merge(base: Path, adapter: Path, folder: Path, tokenizer: Any, job: RunJob) -> None:
    """Added in float32, so that the sum is rounded once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.to(getattr(torch, job.settings.half or "bfloat16")).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if (manifest := adapter / MANIFEST_FILE).is_file():
        shutil.copy(manifest, folder)


def _quantise(merged: Path, path: Path, scratch: Path, job: RunJob) -> None:
    assert job.quantizer is not None
    whole = scratch / "model-bf16.gguf"
    write_base(merged, whole, outtype="bf16")
    with whole_file(path) as aside:
        done = subprocess.run(
            [job.quantizer, str(whole), str(aside), job.gguf_quantization],
            capture_output=True,
            text=True,
            timeout=_QUANTIZE_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise TrainingError(
                f"{job.quantizer} ended with status {done.returncode}: {' '.join(last) or 'no message'}",
                advice="the adapter is complete; quantise the merged model by hand",
            )


def check_hub(hub_model_id: str) -> None:
    """Ask the hub whether it knows who uploads, before anything is trained.

    Raises:
        TrainingError: it cannot be reached, or does not know.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().whoami()
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        raise TrainingError(
            f"the adapter is to be put on the hub as {hub_model_id}, which cannot be asked: {type(error).__name__}",
            advice="go online and log in with `hf auth login`, or set save.push_to_hub to false",
        ) from error


def upload(folder: Path, hub_model_id: str) -> None:
    """Put the adapter on the hub.

    Raises:
        TrainingError: the hub cannot be reached or refuses; the adapter stays where it is.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().create_repo(hub_model_id, exist_ok=True, private=True)
        HfApi().upload_folder(repo_id=hub_model_id, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError, ValueError) as error:
        raise TrainingError(
            f"the adapter in {folder} could not be put on the hub as {hub_model_id}: {type(error).__name__}",
            advice="it is complete where it is; log in with `hf auth login` and upload that folder",
        ) from error
