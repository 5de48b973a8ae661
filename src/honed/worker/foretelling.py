"""How well a model foretells the assistant's tokens: their log-probability, and how many are its first choice.

A token is foretold when it is the model's first choice after everything that stands before it in the row.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from honed.domain.evaluating import Foretold
from honed.worker.batches import collate
from honed.worker.rows import IGNORED, Row

NOTHING: Final = Foretold(0, 0, 0.0)
MAX_LOGITS: Final = 1 << 27
"""Logits of one batch at most: 512 MiB in float32. A single longer row is computed where it counts only."""


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


def together(one: Foretold, other: Foretold) -> Foretold:
    """Of several rows of one line."""
    return Foretold(
        one.num_tokens + other.num_tokens,
        one.num_correct + other.num_correct,
        one.log_prob + other.log_prob,
    )


def batches_of(rows: Sequence[Row], vocab_size: int) -> Iterator[list[Row]]:
    """Rows of similar length together, as many as `MAX_LOGITS` allows."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) + 1) * len(row.input_ids) * vocab_size > MAX_LOGITS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
