"""Supervised fine-tuning: TRL's SFTTrainer on rows that are already tokenised and labelled."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from trl import SFTConfig, SFTTrainer

from honed.domain.job import TrainSettings
from honed.worker.arguments import arguments
from honed.worker.lora import trainer_with_adapter
from honed.worker.rows import Row
from honed.worker.split import Split


def sft_trainer(
    model: Any, tokenizer: Any, split: Split[Row], settings: TrainSettings, scratch: Path
) -> SFTTrainer:
    """The trainer of a run, its adapter already around the model.

    Raises:
        TrainingError: the settings do not fit the model.
    """
    config = SFTConfig(
        **arguments(
            settings,
            scratch,
            on_cpu=model.device.type == "cpu",
            validates=bool(split.validation),
        ),
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return trainer_with_adapter(
        SFTTrainer,
        model,
        settings,
        args=config,
        train_dataset=_dataset(split.train),
        eval_dataset=_dataset(split.validation) if split.validation else None,
        processing_class=tokenizer,
    )


def _dataset(rows: Sequence[Row]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )
