"""Direct preference optimisation: TRL's DPOTrainer on pairs that are already tokenised and labelled.

    loss = -log sigmoid(beta * ((logp_chosen - ref_chosen) - (logp_rejected - ref_rejected)))

The log-probabilities are sums over the assistant's own tokens behind the prompt, in all texts of an answer; what tools
and users say within it does not count. The reference is the base model with the adapter off; of a run that starts from
an adapter, that adapter as it was. TRL turns dropout off, so that the two differ by what was learned alone.

Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7; beta 0.1 is its default for dialogue (appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import torch
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import use_adapter

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
    """Takes rows as they are, and answers in several texts."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        inputs = dict(inputs)
        answers = inputs.pop("answers")
        if int(answers[-1]) + 1 == len(answers):  # each in one text, as TRL knows it
            return super()._compute_loss(model, inputs, return_outputs)
        return self.loss_of_sums(model, inputs, answers)

    def loss_of_sums(self, model: Any, inputs: dict[str, Any], answers: Any) -> Any:
        """The same loss, of log-probabilities that are summed over the texts of each answer."""
        policy = _summed(model, inputs, answers)
        adapter = "ref" if "ref" in self.model.peft_config else None
        with torch.no_grad(), use_adapter(self.model, adapter_name=adapter):
            reference = _summed(self.model, inputs, answers)
        chosen, rejected = (self.beta * (policy - reference)).chunk(2)
        margins = chosen - rejected
        mode = "train" if self.model.training else "eval"
        told = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
        }
        for name, values in told.items():
            self._metrics[mode][name].append(values.detach().mean().item())
        if mode == "train":
            self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return -torch.nn.functional.logsigmoid(margins).mean()


def _summed(model: Any, inputs: dict[str, Any], answers: Any) -> Any:
    """Log-probability of each answer, over all its texts."""
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
    texts = model(**given, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(dim=1)
    return texts.new_zeros(int(answers[-1]) + 1).index_add(0, answers, texts)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Pairs to a batch: the texts of all chosen answers, then those of all rejected ones, as TRL's loss takes them.

    `answers` has the number of each text's answer.
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [
            (Row(ids, labels), number)
            for number, (side, pair) in enumerate(product(("chosen", "rejected"), pairs))
            for ids, labels in zip(pair[f"{side}_ids"], pair[f"{side}_labels"], strict=True)
        ]
        batch = collate([row for row, _ in texts], self.pad_token_id)
        batch["completion_mask"] = (batch.pop("labels") != IGNORED).long()
        batch["answers"] = torch.tensor([number for _, number in texts])
        return batch


def _dataset(rows: Sequence[PairRow]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "chosen_ids": [[text.input_ids for text in row.chosen] for row in rows],
            "chosen_labels": [[text.labels for text in row.chosen] for row in rows],
            "rejected_ids": [[text.input_ids for text in row.rejected] for row in rows],
            "rejected_labels": [[text.labels for text in row.rejected] for row in rows],
        }
    )
