"""The trainer of a run, by what its rows are."""

from pathlib import Path
from typing import Any, cast

from honed.domain.job import TrainSettings
from honed.worker.material import AnyRow
from honed.worker.preferences import LabelledRow, PairRow
from honed.worker.rows import Row
from honed.worker.split import Split


def trainer_of(
    model: Any, tokenizer: Any, split: Split[AnyRow], settings: TrainSettings, scratch: Path
) -> Any:
    """TRL's trainer, the adapter already around the model; each is imported when it is needed.

    Raises:
        TrainingError: the settings do not fit the model.
    """
    match split.train[0]:
        case PairRow():
            from honed.worker.dpo import dpo_trainer

            pairs = cast("Split[PairRow]", split)
            return dpo_trainer(model, tokenizer, pairs, settings, scratch)
        case LabelledRow():
            from honed.worker.kto import kto_trainer

            answers = cast("Split[LabelledRow]", split)
            return kto_trainer(model, tokenizer, answers, settings, scratch)
        case Row():
            from honed.worker.sft import sft_trainer

            rows = cast("Split[Row]", split)
            return sft_trainer(model, tokenizer, rows, settings, scratch)
