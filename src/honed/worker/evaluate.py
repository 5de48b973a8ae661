"""How many of the assistant's tokens a model foretells: what baseline and evaluation are counted from.

A token is foretold when it is the model's first choice after everything that stands before it in the row.
"""

from pathlib import Path
from typing import Any, Final

from honed.domain.evaluating import (
    EvaluateJob,
    EvaluateResult,
    TokeniseJob,
    TokeniseResult,
    TokenRow,
)
from honed.domain.job import Progress
from honed.domain.running import TemplateName
from honed.worker.adapted import AdaptedModel
from honed.worker.base_model import (
    base_folder,
    choose_device,
    load_config,
    load_tokenizer,
    set_threads,
)
from honed.worker.chat_templates import TEMPLATES
from honed.worker.examples import read_examples
from honed.worker.foretelling import NOTHING, batches_of, foretold_in, together
from honed.worker.reporting import Report
from honed.worker.rows import IGNORED, rows_of

_ADAPTER: Final = "adapter"


def evaluate(job: EvaluateJob, report: Report) -> EvaluateResult:
    """Do an EvaluateJob.

    Raises:
        TrainingError: base model, adapter or data cannot be read.
    """
    folder = base_folder(job.base_model)
    load_config(folder)
    set_threads(job.threads)
    tokenizer = _tokenizer(folder, job.chat_template)
    examples = read_examples(Path(job.data_path))
    rows = rows_of(examples, tokenizer, max_length=job.max_length)
    adapters = {_ADAPTER: Path(job.adapter_path)} if job.adapter_path else {}
    model = AdaptedModel(folder, choose_device(job.device), adapters)
    found = [NOTHING] * len(examples)
    batches = list(batches_of(rows, model.model.config.vocab_size))
    with model.using(_ADAPTER if adapters else None) as adapted:
        for step, batch in enumerate(batches, 1):
            foretold = foretold_in(adapted, batch, tokenizer.pad_token_id)
            for row, more in zip(batch, foretold, strict=True):
                found[row.example] = together(found[row.example], more)
            report(Progress(phase="scoring", step=step, total_steps=len(batches)))
    return EvaluateResult(rows=tuple(found))


def tokenise(job: TokeniseJob) -> TokeniseResult:
    """Do a TokeniseJob.

    Raises:
        TrainingError: base model or data cannot be read.
    """
    tokenizer = _tokenizer(base_folder(job.base_model), job.chat_template)
    rows: list[TokenRow] = []
    num_targets = 0
    for example in read_examples(Path(job.data_path)):
        for row in rows_of([example], tokenizer, max_length=job.max_length):
            if num_targets >= job.num_targets:
                return TokeniseResult(rows=tuple(rows))
            targets = tuple(i for i, label in enumerate(row.labels) if i and label != IGNORED)
            rows.append(TokenRow(tuple(row.input_ids), targets))
            num_targets += len(targets)
    return TokeniseResult(rows=tuple(rows))


def _tokenizer(folder: Path, named: TemplateName | None) -> Any:
    return load_tokenizer(folder, template=None if named is None else TEMPLATES[named])
