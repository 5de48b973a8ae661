"""A run that does not fit into memory goes on smaller, and says so."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from honed.domain.job import TrainResult, TrainSettings
from honed.machine import model
from honed.machine.plan import training_bytes
from honed.processors import run_job
from honed.worker.smaller import smaller
from tests.tiny_models import conversations, offline
from tests.unit.worker.test_train import job

SETTINGS = TrainSettings(
    r=4,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=1,
    num_train_epochs=1,
    max_length=1024,
    threads=1,
    logging_steps=1,
    validation_fraction=0.0,
    device="cpu",
)


def long_data(path: Path) -> Path:
    """Eight rows of about 900 tokens."""
    rows = [row["messages"] for row in conversations(64)]
    talk = [turn for messages in rows for turn in messages if turn["role"] != "system"][:90]
    lines = [
        json.dumps({"messages": [{"role": "system", "content": str(number)}, *talk]})
        for number in range(8)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(
    base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> tuple[TrainResult, list[str]]:
    """What came of a run on a machine whose memory holds a pass of so many tokens, and what it told."""
    offline()
    import torch

    from honed.worker import train

    load = train.load_model

    def small(*args: Any, **more: Any) -> Any:
        model = load(*args, **more)

        def allocate(module: Any, args: Any, given: dict[str, Any]) -> None:
            if given["input_ids"].numel() > tokens:
                torch.empty(1 << 60, dtype=torch.uint8)  # what an allocator says that has no more

        model.model.register_forward_pre_hook(allocate, with_kwargs=True)
        return model

    monkeypatch.setattr(train, "load_model", small)
    todo = job(
        base, long_data(folder / "train.jsonl"), folder, settings=SETTINGS, held_out_path=None
    )
    told: list[str] = []
    result = train.train(todo, lambda progress: told.append(progress.note or ""))
    return result, [note for note in told if note]


@pytest.mark.feature("TR-087")
def test_batches_are_halved_until_they_fit(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step learns from as many rows as before; the manifest has the settings that it was done with."""
    result, notes = run(tiny_base, tmp_path, monkeypatch, tokens=1000)
    assert result.metrics.num_steps == 1
    assert notes == [
        f"out of memory: goes on with batches of {batch}, {8 // batch} to a step, rows of up to 1024 tokens"
        for batch in (4, 2, 1)
    ]
    done_with = json.loads((tmp_path / "adapter/manifest.json").read_text())["settings"]
    assert done_with["per_device_train_batch_size"] == 1
    assert done_with["gradient_accumulation_steps"] == 8


def test_rows_are_shortened_when_one_alone_does_not_fit(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last turns are not learned from, and that is counted."""
    result, notes = run(tiny_base, tmp_path, monkeypatch, tokens=600)
    assert len(notes) == 4
    assert "batches of 1, 8 to a step, rows of up to 4" in notes[-1]
    assert result.metrics.dropped_tokens["beyond max_length"] > 0


@pytest.mark.feature("TR-086")
def test_what_cannot_be_made_smaller_fails(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the allocator said, which the worker turns into advice; no adapter is written."""
    from honed.worker.shortage import shortage

    with pytest.raises(RuntimeError) as raised:
        run(tiny_base, tmp_path, monkeypatch, tokens=100)
    failed = shortage(raised.value)
    assert failed is not None
    assert failed.message.startswith("out of memory: ")
    assert "per_device_train_batch_size" in (failed.advice or "")
    assert not (tmp_path / "adapter/manifest.json").exists()


def test_smaller_keeps_the_rows_of_a_step_and_then_shortens() -> None:
    """Odd batches round up; rows go down to what still holds a conversation."""
    settings: TrainSettings | None = TrainSettings(
        per_device_train_batch_size=6, gradient_accumulation_steps=3, max_length=4096
    )
    tried = []
    while settings := smaller(settings, longest=1800):
        tried.append(
            (
                settings.per_device_train_batch_size,
                settings.gradient_accumulation_steps,
                settings.max_length,
            )
        )
    assert tried == [(3, 6, 4096), (1, 18, 4096), (1, 18, 900), (1, 18, 450)]


@pytest.mark.timeout(600)
def test_the_peak_of_a_run_is_about_what_was_foretold(tmp_path: Path) -> None:
    """Two steps of 2,048 tokens in a process of their own: stack, base model, activations, adapter."""
    offline()
    import torch

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    turns = [
        {"role": "user", "content": "a " * 1_600},
        {"role": "assistant", "content": "b " * 420},
    ]
    tokenizer = make_tokenizer([Example(messages=turns)], vocab_size=300)
    torch.manual_seed(0)
    save_base(make_model(512, hidden_size=256, num_layers=4), tokenizer, tmp_path / "base")
    data = tmp_path / "rows.jsonl"
    data.write_text(2 * (json.dumps({"messages": turns}) + "\n"))
    settings = replace(
        SETTINGS, method="sft", per_device_train_batch_size=1, max_steps=2, max_length=2048
    )
    told = job(tmp_path / "base", data, tmp_path, settings=settings, held_out_path=None)
    found = anyio.run(run_job, told, tmp_path / "run", lambda progress: None)
    assert isinstance(found, TrainResult)
    assert found.metrics.num_steps == 2
    shape = model.shape(tmp_path / "base", model.read_config(tmp_path / "base"))
    assert shape is not None
    foretold = training_bytes(shape, settings, on_gpu=False) / (1 << 20)
    assert 0.7 < (found.metrics.peak_rss_mb or 0) / foretold < 1.3
