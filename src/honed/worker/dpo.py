"""Direct preference optimisation: TRL's DPOTrainer on pairs that are already tokenised and labelled.

    loss = -log sigmoid(beta * ((logp_chosen - ref_chosen) - (logp_rejected - ref_rejected)))

The sums run over the assistant's own tokens behind the prompt; what tools and users say within an answer does not
count. The reference is the base model with the adapter off; of a run that starts from an adapter, that adapter as it
was. TRL turns dropout off, so that policy and reference differ by what was learned alone.

Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta 0.1 is its default for dialogue (appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from trl import DPOConfig, DPOTrainer

from honed.domain.job import TrainSettings
from honed.worker.arguments import arguments
from honed.worker.batches import collate
from honed.worker.lora import trainer_with_adapter
from honed.worker.preferences import PairRow
from honed.worker.rows import IGNORED, Row
from honed.worker.split import Split


def dpo_trainer(
    model: Any, tokenizer: Any, split: Split[PairRow], settings: TrainSettings, scratch: Path
) -> DPOTrainer:
    """The trainer of a run, its adapter already around the model.

    Raises:
        TrainingError: the settings do not fit the model.
    """
    on_cpu = model.device.type == "cpu"
    config = DPOConfig(
        **arguments(settings, scratch, on_cpu=on_cpu, validates=bool(split.validation)),
        beta=settings.beta,
        remove_unused_columns=False,
    )
    return trainer_with_adapter(
        _Tokenised,
        model,
        settings,
        args=config,
        train_dataset=_dataset(split.train),
        eval_dataset=_dataset(split.validation) if split.validation else None,
        processing_class=tokenizer,
        data_collator=_Pairs(tokenizer.pad_token_id),
    )


class _Tokenised(DPOTrainer):  # type: ignore[misc]
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs to a batch: all chosen rows, then all rejected ones, as TRL's loss takes them."""

    pad_token_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sides = [
            Row(pair[f"{side}_ids"], pair[f"{side}_labels"])
            for side in ("chosen", "rejected")
            for pair in pairs
        ]
        batch = collate(sides, self.pad_token_id)
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        return batch


def _dataset(rows: Sequence[PairRow]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "chosen_ids": [row.chosen.input_ids for row in rows],
            "chosen_labels": [row.chosen.labels for row in rows],
            "rejected_ids": [row.rejected.input_ids for row in rows],
            "rejected_labels": [row.rejected.labels for row in rows],
        }
    )
