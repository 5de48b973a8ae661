"""Log-probabilities of held-out episodes under a candidate and the incumbent, for the gate.

Both see the same rows in the same batches, so that what padding does to the last digits cancels
out.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from honed.domain.job import EpisodeScore, Progress, ScoreJob, ScoreResult
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
from honed.worker.rows import Row, rows_of

CANDIDATE: Final = "candidate"
INCUMBENT: Final = "incumbent"
MAX_LOGITS: Final = 1 << 27
"""Logits of one batch at most: 512 MiB in float32. A single longer row is computed where it counts
only.
"""


class HeldOutRows(NamedTuple):
    """The rows of a held-out file and how many lines it has."""

    rows: list[Row]
    num_examples: int


def score(job: ScoreJob, report: Report) -> ScoreResult:
    """Do a ScoreJob.

    Raises:
        TrainingError: base model, adapters or data cannot be read.
    """
    folder = base_folder(job.base_model)
    load_config(folder)
    set_threads(job.threads)
    tokenizer = load_tokenizer(folder)
    held_out = read_held_out(Path(job.held_out_path), tokenizer, max_length=job.max_length)
    adapters = {CANDIDATE: job.candidate_path, INCUMBENT: job.incumbent_path}
    present = {name: Path(path) for name, path in adapters.items() if path is not None}
    model = AdaptedModel(folder, choose_device(job.device), present)
    return ScoreResult(
        scores=score_episodes(
            model,
            held_out,
            candidate=CANDIDATE if job.candidate_path else None,
            incumbent=INCUMBENT if job.incumbent_path else None,
            pad_token_id=tokenizer.pad_token_id,
            report=report,
        )
    )


def read_held_out(path: Path, tokenizer: Any, *, max_length: int) -> HeldOutRows:
    """The rows of a held-out file; a row knows its line by `example`."""
    examples = read_examples(path)
    return HeldOutRows(rows_of(examples, tokenizer, max_length=max_length), len(examples))


def score_episodes(
    model: AdaptedModel,
    held_out: HeldOutRows,
    *,
    candidate: str | None,
    incumbent: str | None,
    pad_token_id: int,
    report: Report,
) -> tuple[EpisodeScore, ...]:
    """One score for each line of the held-out file; a line without a token to score has
    `num_tokens` 0.
    """
    tokens = [0] * held_out.num_examples
    sums = {CANDIDATE: [0.0] * held_out.num_examples, INCUMBENT: [0.0] * held_out.num_examples}
    names = {CANDIDATE: candidate, INCUMBENT: incumbent}
    batches = list(_batches(held_out.rows, model.model.config.vocab_size))
    for step, batch in enumerate(batches, 1):
        for row in batch:
            tokens[row.example] += row.num_targets
        for side, name in names.items():
            with model.using(name) as adapted:
                for row, value in zip(
                    batch, row_log_probs(adapted, batch, pad_token_id), strict=True
                ):
                    sums[side][row.example] += value
        report(Progress(phase="scoring", step=step, total_steps=len(batches)))
    return tuple(
        EpisodeScore(num_tokens=n, candidate=c / max(n, 1), incumbent=i / max(n, 1))
        for n, c, i in zip(tokens, sums[CANDIDATE], sums[INCUMBENT], strict=True)
    )


def row_log_probs(model: Any, rows: Sequence[Row], pad_token_id: int) -> list[float]:
    """The summed log-probability of each row, nats; call it inside `AdaptedModel.using`."""
    import torch

    batch = {name: values.to(model.device) for name, values in collate(rows, pad_token_id).items()}
    labels = batch.pop("labels")[:, 1:]
    if len(rows) == 1:
        positions = (labels[0] >= 0).nonzero()[:, 0]
        logits = model(**batch, logits_to_keep=positions).logits.float()
        targets = labels[:, positions]
    else:
        logits = model(**batch).logits[:, :-1].float()
        targets = labels
    counted = targets >= 0
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    log_probs = (chosen - torch.logsumexp(logits, dim=-1)) * counted
    sums: list[float] = log_probs.double().sum(dim=1).tolist()
    return sums


def _batches(rows: Sequence[Row], vocab_size: int) -> Iterator[list[Row]]:
    """Rows of similar length together, as many as `MAX_LOGITS` allows."""
    batch: list[Row] = []
    longest: Callable[[Row], int] = lambda row: len(row.input_ids)  # noqa: E731
    for row in sorted(rows, key=longest):
        if batch and (len(batch) + 1) * len(row.input_ids) * vocab_size > MAX_LOGITS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
