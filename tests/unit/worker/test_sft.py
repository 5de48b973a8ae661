"""Our trainer beside TRL's own: the same steps, however the rows of a step are divided."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from honed.domain.job import TrainSettings
from honed.worker.rows import IGNORED, Row
from honed.worker.split import Split
from tests.tiny_models import offline

SETTINGS = TrainSettings(
    r=4,
    lora_alpha=8,
    lora_dropout=0.0,
    num_train_epochs=2,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=3,
    learning_rate=5e-3,
    seed=5,
    threads=1,
    logging_steps=1,
    device="cpu",
)


def mixed_rows() -> list[Row]:
    """Twenty rows of 8 to 160 tokens; a quarter of each counts, and some tokens follow the last of those."""
    rows = []
    for number in range(20):
        length = 8 * (1 + number * 7 % 20)
        ids = [(5 * i * i + 11 * number) % 290 + 5 for i in range(length)]
        start, end = length // 2, 3 * length // 4
        labels = [token if start <= i < end else IGNORED for i, token in enumerate(ids)]
        rows.append(Row(ids, labels, number))
    return rows


def trained(trainer: Any) -> tuple[list[float], dict[str, Any]]:
    """Loss of each step and the adapter's weights."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    weights = {
        name: weight.detach().clone()
        for name, weight in trainer.model.named_parameters()
        if weight.requires_grad
    }
    return losses, weights


def ours(base: Path, folder: Path, **changed: Any) -> Any:
    from transformers import set_seed

    from honed.worker.base_model import load_model, load_tokenizer
    from honed.worker.sft import sft_trainer

    settings = replace(SETTINGS, **changed)
    set_seed(settings.seed)
    split = Split(mixed_rows())
    return sft_trainer(load_model(base, "cpu"), load_tokenizer(base), split, settings, folder)


def plain(base: Path, folder: Path) -> Any:
    """TRL's trainer with the same settings."""
    import datasets
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from honed.worker.arguments import arguments
    from honed.worker.base_model import load_model, load_tokenizer
    from honed.worker.lora import lora_config

    set_seed(SETTINGS.seed)
    rows = mixed_rows()
    return SFTTrainer(
        model=load_model(base, "cpu"),
        args=SFTConfig(
            **arguments(SETTINGS, folder, on_cpu=True, validates=False),
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=datasets.Dataset.from_dict(
            {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
        ),
        processing_class=load_tokenizer(base),
        peft_config=lora_config(SETTINGS),
    )


def test_the_steps_are_those_of_trl(tiny_base: Path, tmp_path: Path) -> None:
    """As many steps, each from the same rows and with the same loss, and in the end the same weights to 1e-4."""
    offline()
    import torch

    torch.set_num_threads(1)
    expected, wanted = trained(plain(tiny_base, tmp_path / "plain"))
    losses, weights = trained(ours(tiny_base, tmp_path / "ours"))
    assert len(losses) == len(expected) == 8
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, weight in wanted.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-4)


def test_the_same_run_gives_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    """Rows, seed and threads the same: bit for bit."""
    offline()
    import torch

    torch.set_num_threads(1)
    first = trained(ours(tiny_base, tmp_path / "first"))
    again = trained(ours(tiny_base, tmp_path / "again"))
    assert first[0] == again[0]
    assert all(torch.equal(first[1][name], weight) for name, weight in again[1].items())


def test_checkpointed_activations_change_no_step(tiny_base: Path, tmp_path: Path) -> None:
    """What is computed twice to save memory gives the same losses and weights to 1e-5."""
    offline()
    import torch

    torch.set_num_threads(1)
    plainly, wanted = trained(ours(tiny_base, tmp_path / "kept"))
    trainer = ours(tiny_base, tmp_path / "again", gradient_checkpointing=True)
    assert trainer.args.activation_checkpointing
    losses, weights = trained(trainer)
    assert losses == pytest.approx(plainly, rel=1e-5)
    for name, weight in wanted.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)


def test_half_a_batch_is_half_the_memory_and_the_same_step(tiny_base: Path, tmp_path: Path) -> None:
    """With half the batch and twice the accumulation a step has the same rows, in smaller micro-batches."""
    offline()
    from honed.worker.sft import divided

    whole = ours(tiny_base, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    half = ours(tiny_base, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    steps = [next(iter(trainer.get_train_dataloader())) for trainer in (whole, half)]
    assert steps[0]["input_ids"].tolist() == steps[1]["input_ids"].tolist()
    largest = [
        max(part["input_ids"].numel() for part in divided(step, trainer.max_tokens))
        for step, trainer in zip(steps, (whole, half), strict=True)
    ]
    assert largest[1] <= half.max_tokens == whole.max_tokens / 2 < largest[0]


def test_a_step_is_divided_by_length(tiny_base: Path, tmp_path: Path) -> None:
    """Micro-batches hold the rows up to their last token that counts, each token that counts once, and little else."""
    offline()
    from honed.worker.sft import divided

    trainer = ours(tiny_base, tmp_path)
    inputs = next(iter(trainer.get_train_dataloader()))
    assert inputs["labels"].shape[0] == 6
    parts = divided(inputs, trainer.max_tokens)
    counted = sum(int((part["labels"] != IGNORED).sum()) for part in parts)
    assert counted == int((inputs["labels"] != IGNORED).sum())
    held = sum(part["input_ids"].numel() for part in parts)
    needed = sum(int(part["attention_mask"].sum()) for part in parts)
    assert held <= trainer.max_tokens * len(parts)
    assert held - needed < (inputs["input_ids"].numel() - int(inputs["attention_mask"].sum())) / 2
    for part in parts:
        assert bool((part["labels"][:, -1] != IGNORED).any())
