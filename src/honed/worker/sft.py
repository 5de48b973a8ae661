"""Supervised fine-tuning: TRL's SFTTrainer on rows that are already tokenised and labelled, and faster on a CPU.

A step learns from the rows that transformers' own sampler draws for it, `per_device_train_batch_size` times
`gradient_accumulation_steps` of them, whatever their lengths; how they go through the model is decided for each step.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import datasets
import torch
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from honed.domain.job import TrainSettings
from honed.worker.arguments import arguments
from honed.worker.head_loss import summed_loss
from honed.worker.lora import trainer_with_adapter
from honed.worker.micro_batches import micro_batches
from honed.worker.rows import IGNORED, Row
from honed.worker.split import Split

TOKENS_ON_CPU: Final = 2048
"""Of a micro-batch. Measured on one core with 11 M parameters: more take more memory and no less time."""


def sft_trainer(
    model: Any, tokenizer: Any, split: Split[Row], settings: TrainSettings, scratch: Path
) -> SFTTrainer:
    """The trainer of a run, its adapter already around the model.

    Raises:
        TrainingError: the settings do not fit the model.
    """
    on_cpu = model.device.type == "cpu"
    told = arguments(settings, scratch, on_cpu=on_cpu, validates=bool(split.validation))
    num_rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    config = SFTConfig(
        **told
        # One batch of transformers' is one step; it is divided in `training_step`.
        | {"per_device_train_batch_size": num_rows, "gradient_accumulation_steps": 1},
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = trainer_with_adapter(
        GroupedTrainer,
        model,
        settings,
        args=config,
        train_dataset=_dataset(split.train),
        eval_dataset=_dataset(split.validation) if split.validation else None,
        processing_class=tokenizer,
    )
    longest = max(len(row.input_ids) for row in split.train)
    allowed = settings.per_device_train_batch_size * longest
    trainer.max_tokens = min(allowed, TOKENS_ON_CPU) if on_cpu else allowed
    return trainer


def _dataset(rows: Sequence[Row]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


class GroupedTrainer(SFTTrainer):  # type: ignore[misc]
    """Takes the rows of a step through the model by length, and on a CPU makes logits only where they count.

    The loss of a step is the mean over all its tokens that count, as TRL's is: only the last digits differ.
    """

    max_tokens: int = 0
    """Of one micro-batch, padding counted."""

    def training_step(
        self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None
    ) -> Tensor:
        """Gradients of one step, its rows in micro-batches of like length; returns its loss."""
        losses = [
            super(GroupedTrainer, self).training_step(model, part, num_items_in_batch)
            for part in divided(inputs, self.max_tokens)
        ]
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss; elsewhere than on a CPU TRL's own kernels leave out what does not count."""
        labels = inputs["labels"]
        if labels.device.type != "cpu" or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is None:
            num_items_in_batch = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
        if model.training:
            self._total_train_tokens += int(inputs["attention_mask"].sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return summed_loss(model, inputs["input_ids"], labels) / num_items_in_batch

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Nobody asks for them, and counting all parameters at each step takes a twentieth of a small model's time."""
        return 0


def divided(inputs: dict[str, Tensor], max_tokens: int) -> list[dict[str, Tensor]]:
    """A batch, padded on the right, in micro-batches of like length, rows cut after the last token that counts."""
    labels = inputs["labels"]
    ends = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    lengths = cast("list[int]", ((labels != IGNORED) * ends).amax(dim=1).tolist())
    return [
        {name: values[group, : max(lengths[i] for i in group)] for name, values in inputs.items()}
        for group in micro_batches(lengths, max_tokens=max_tokens)
    ]
