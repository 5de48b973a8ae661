"""Log-probabilities of held-out episodes under a candidate, the incumbent and the base, for the gate.

All see the same rows in the same batches, so that what padding does to the last digits cancels
out.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

from honed.domain.episode_score import EpisodeScore
from honed.domain.evaluating import Foretold
from honed.domain.job import Progress, ScoreJob, ScoreResult
from honed.worker.adapted import AdaptedModel
from honed.worker.base_model import (
    base_folder,
    choose_device,
    load_config,
    load_tokenizer,
    set_threads,
)
from honed.worker.examples import read_examples
from honed.worker.foretelling import NOTHING, batches_of, foretold_in, together
from honed.worker.reporting import Report
from honed.worker.rows import Row, rows_of

CANDIDATE: Final = "candidate"
INCUMBENT: Final = "incumbent"


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
    """One score for each line of the held-out file, of candidate, incumbent and the bare base where that is neither.

    A line without a token to score has `num_tokens` 0.
    """
    names = list(dict.fromkeys((candidate, incumbent, None)))
    found = {name: [NOTHING] * held_out.num_examples for name in names}
    batches = list(batches_of(held_out.rows, model.model.config.vocab_size))
    for step, batch in enumerate(batches, 1):
        for name in names:
            with model.using(name) as adapted:
                foretold = foretold_in(adapted, batch, pad_token_id)
            for row, more in zip(batch, foretold, strict=True):
                found[name][row.example] = together(found[name][row.example], more)
        report(Progress(phase="scoring", step=step, total_steps=len(batches)))
    base = found[None] if incumbent is not None else [None] * held_out.num_examples
    return tuple(
        _score(*each) for each in zip(found[candidate], found[incumbent], base, strict=True)
    )


def _score(candidate: Foretold, incumbent: Foretold, base: Foretold | None) -> EpisodeScore:
    num_tokens = max(candidate.num_tokens, 1)
    return EpisodeScore(
        num_tokens=candidate.num_tokens,
        candidate=candidate.log_prob / num_tokens,
        incumbent=incumbent.log_prob / num_tokens,
        base=base.log_prob / num_tokens if base else None,
        candidate_accuracy=candidate.num_correct / num_tokens,
        incumbent_accuracy=incumbent.num_correct / num_tokens,
    )
