"""An adapter of somebody's script becomes one that can be served, once."""

import os
from pathlib import Path

import pytest

from honed.adapter_files import adapter_digest
from honed.domain.job import ExportAdapterJob, TrainJob, TrainSettings
from honed.domain.trained_model import TrainingMetrics
from honed.errors import TrainingError
from honed.worker.complete import complete
from tests.tiny_models import make_tiny_adapter

PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def job(base: Path, folder: Path) -> ExportAdapterJob:
    lineage = TrainJob(
        run_id="air@1",
        model_id="air@1",
        scenario="air",
        learn_model="chat",
        base_model=str(base),
        data_path="",
        held_out_path=None,
        incumbent_path=None,
        output_path="",
        result_path="",
        settings=TrainSettings(device="cpu", threads=1),
    )
    return ExportAdapterJob(
        base_model=str(base),
        adapter_path=str(folder),
        lineage=lineage,
        metrics=TrainingMetrics(final_loss=1.0),
        method="sft",
        method_reason="the script says so",
        num_rows=3,
        result_path="",
    )


def peft_files(base: Path, folder: Path, seed: int) -> Path:
    make_tiny_adapter(base, folder, seed=seed)
    for path in folder.iterdir():
        if path.name not in PEFT_FILES:
            path.unlink()
    return folder


@pytest.mark.feature("SE-126")
def test_an_adapter_is_converted_once(tiny_base: Path, tmp_path: Path) -> None:
    """The same files are left as they are; other weights are converted again."""
    folder = peft_files(tiny_base, tmp_path / "adapter", seed=1)
    made = complete(job(tiny_base, folder))
    assert made.is_new
    assert made.digest == adapter_digest(folder)
    gguf = folder / "adapter.gguf"
    os.utime(gguf, (1, 1))
    again = complete(job(tiny_base, folder))
    assert (again.is_new, again.digest) == (False, made.digest)
    assert gguf.stat().st_mtime == 1
    other = peft_files(tiny_base, tmp_path / "other", seed=2)
    (other / "adapter_model.safetensors").replace(folder / "adapter_model.safetensors")
    changed = complete(job(tiny_base, folder))
    assert changed.is_new
    assert changed.digest != made.digest
    assert gguf.stat().st_mtime > 1


@pytest.mark.feature("SE-126")
def test_what_is_no_adapter_is_told(tiny_base: Path, tmp_path: Path) -> None:
    """The missing file is named, and what to do."""
    with pytest.raises(TrainingError, match=r"has no adapter_config.json") as refused:
        complete(job(tiny_base, tmp_path))
    assert "save_pretrained" in str(refused.value.advice)
