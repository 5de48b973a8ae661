"""How many of the assistant's tokens a model foretells: what baseline and evaluation are counted from.

A token is foretold when it is the model's first choice after everything that stands before it in the row.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from honed.domain.evaluating import (
    EvaluateJob,
    EvaluateResult,
    Foretold,
    TokeniseJob,
    TokeniseResult,
    TokenRow,
)
from honed.domain.job import Progress
from honed.worker.adapted import AdaptedModel
from honed.worker.base_model import (
    base_folder,
    choose_device,
    load_config,
    load_tokenizer,
    set_threads,
)
from honed.worker.batches import collate
from honed.worker.examples import read_examples
from honed.worker.reporting import Report
from honed.worker.rows import IGNORED, Row, rows_of
from honed.worker.scores import MAX_LOGITS

_ADAPTER: Final = "adapter"
_NOTHING: Final = Foretold(0, 0, 0.0)


def evaluate(job: EvaluateJob, report: Report) -> EvaluateResult:
    """Do an EvaluateJob.

    Raises:
        TrainingError: base model, adapter or data cannot be read.
    """
    folder = base_folder(job.base_model)
    load_config(folder)
    set_threads(job.threads)
    tokenizer = load_tokenizer(folder)
    examples = read_examples(Path(job.data_path))
    rows = rows_of(examples, tokenizer, max_length=job.max_length)
    adapters = {_ADAPTER: Path(job.adapter_path)} if job.adapter_path else {}
    model = AdaptedModel(folder, choose_device(job.device), adapters)
    found = [_NOTHING] * len(examples)
    batches = list(_batches(rows, model.model.config.vocab_size))
    with model.using(_ADAPTER if adapters else None) as adapted:
        for step, batch in enumerate(batches, 1):
            foretold = foretold_in(adapted, batch, tokenizer.pad_token_id)
            for row, more in zip(batch, foretold, strict=True):
                found[row.example] = _sum(found[row.example], more)
            report(Progress(phase="scoring", step=step, total_steps=len(batches)))
    return EvaluateResult(rows=tuple(found))


def tokenise(job: TokeniseJob) -> TokeniseResult:
    """Do a TokeniseJob.

    Raises:
        TrainingError: base model or data cannot be read.
    """
    tokenizer = load_tokenizer(base_folder(job.base_model))
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


def foretold_in(model: Any, rows: Sequence[Row], pad_token_id: int) -> list[Foretold]:
    """What of each row is foretold; call it inside `AdaptedModel.using`."""
    import torch

    batch = {name: values.to(model.device) for name, values in collate(rows, pad_token_id).items()}
    labels = batch.pop("labels")[:, 1:]
    if len(rows) == 1:  # a long row is computed where it counts only
        positions = (labels[0] != IGNORED).nonzero()[:, 0]
        logits = model(**batch, logits_to_keep=positions).logits.float()
        labels = labels[:, positions]
    else:
        logits = model(**batch).logits[:, :-1].float()
    counts = labels != IGNORED
    chosen = logits.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    log_probs = (chosen - torch.logsumexp(logits, dim=-1)) * counts
    is_right = (logits.argmax(-1) == labels) & counts
    return [
        Foretold(*values)
        for values in zip(
            counts.sum(1).tolist(),
            is_right.sum(1).tolist(),
            log_probs.double().sum(1).tolist(),
            strict=True,
        )
    ]


def _sum(one: Foretold, other: Foretold) -> Foretold:
    """Of several rows of one line."""
    return Foretold(
        one.num_tokens + other.num_tokens,
        one.num_correct + other.num_correct,
        one.log_prob + other.log_prob,
    )


def _batches(rows: Sequence[Row], vocab_size: int) -> Iterator[list[Row]]:
    """Rows of similar length together, as many as `MAX_LOGITS` allows."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) * vocab_size > MAX_LOGITS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
