"""Learning from single answers that are good or bad: TRL's KTOTrainer on rows that are already tokenised and labelled.

    r    = beta * (logp - ref)                       of an answer, its assistant's own tokens summed
    z    = beta * max(0, mean(logp - ref))           of answers under the prompts of their neighbours in the batch
    loss = 1 - sigmoid(r - z) of a good answer, 1 - sigmoid(z - r) of a bad one

The reference is the base model with the adapter off; of a run that starts from an adapter, that adapter as it was.
Good and bad answers weigh the same as a whole, however many there are of each.

Source: Ethayarajh et al. 2024, arXiv 2402.01306, equations 6 to 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from msgspec.structs import replace
from trl import KTOConfig, KTOTrainer

from honed.domain.job import TrainSettings
from honed.errors import EmptyDataError
from honed.worker.arguments import arguments
from honed.worker.batches import collate
from honed.worker.lora import trainer_with_adapter
from honed.worker.preferences import LabelledRow
from honed.worker.rows import IGNORED, Ids, Row
from honed.worker.split import Split


def kto_trainer(
    model: Any, tokenizer: Any, split: Split[LabelledRow], settings: TrainSettings, scratch: Path
) -> KTOTrainer:
    """The trainer of a run, its adapter already around the model; rows are taken in their order.

    Raises:
        EmptyDataError: what is trained on is all good or all bad.
        TrainingError: the settings do not fit the model.
    """
    settings = with_neighbours(settings)
    good, bad = _weights(split.train)
    config = KTOConfig(
        **arguments(
            settings,
            scratch,
            on_cpu=model.device.type == "cpu",
            validates=bool(split.validation),
        ),
        beta=settings.beta,
        desirable_weight=good,
        undesirable_weight=bad,
        remove_unused_columns=False,
    )
    size = settings.per_device_train_batch_size
    return trainer_with_adapter(
        _Tokenised,
        model,
        settings,
        args=config,
        train_dataset=_dataset(split.train, size),
        eval_dataset=_dataset(split.validation, size) if split.validation else None,
        processing_class=tokenizer,
        data_collator=_Answers(tokenizer.pad_token_id, settings.max_length),
    )


def with_neighbours(settings: TrainSettings) -> TrainSettings:
    """Two rows to a batch at least: with one, z would be the reward of the answer itself."""
    if settings.per_device_train_batch_size > 1:
        return settings
    return replace(
        settings,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=-(-settings.gradient_accumulation_steps // 2),
    )


class _Tokenised(KTOTrainer):  # type: ignore[misc]
    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def _weights(rows: Sequence[LabelledRow]) -> tuple[float, float]:
    """What a good and what a bad answer weigh: the rarer kind more, so that both sums are the same.

    Equation 8 of the paper asks for a ratio of the sums (good to bad) between 1 and 4/3.
    """
    num_good = sum(row.is_good for row in rows)
    num_bad = len(rows) - num_good
    if not (num_good and num_bad):
        raise EmptyDataError(
            f"of {len(rows)} answers that fit {num_good} are good and {num_bad} bad: method kto learns from the "
            "difference",
            advice="raise train.max_length, or wait for answers of both kinds",
        )
    return max(1.0, num_bad / num_good), max(1.0, num_good / num_bad)


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers to a batch, each also under the prompt of its neighbour, by which TRL estimates z."""

    pad_token_id: int
    max_length: int

    def __call__(self, answers: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = {}
        end = self.max_length  # another one's prompt may be longer
        for prefix in ("", "KL_"):
            rows = [
                Row(each[f"{prefix}ids"][:end], each[f"{prefix}labels"][:end]) for each in answers
            ]
            padded = collate(rows, self.pad_token_id)
            batch[f"{prefix}completion_mask"] = (padded.pop("labels") != IGNORED).long()
            batch |= {f"{prefix}{name}": values for name, values in padded.items()}
        batch["label"] = torch.tensor([each["label"] for each in answers])
        return batch


def _dataset(rows: Sequence[LabelledRow], batch_size: int) -> datasets.Dataset:
    neighbours = [
        _under(prompt, answer)
        for batch in (rows[at : at + batch_size] for at in range(0, len(rows), batch_size))
        for prompt, answer in zip(batch, (batch[-1], *batch[:-1]), strict=True)
    ]
    return datasets.Dataset.from_dict(
        {
            "ids": [each.row.input_ids for each in rows],
            "labels": [each.row.labels for each in rows],
            "KL_ids": [ids for ids, _ in neighbours],
            "KL_labels": [labels for _, labels in neighbours],
            "label": [each.is_good for each in rows],
        }
    )


def _under(prompt: LabelledRow, answer: LabelledRow) -> tuple[Ids, Ids]:
    """An answer behind another one's prompt."""
    ids = prompt.row.input_ids[: prompt.start] + answer.row.input_ids[answer.start :]
    return ids, [IGNORED] * prompt.start + answer.row.labels[answer.start :]
