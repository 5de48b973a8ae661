"""Rows to tensors."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from honed.worker.rows import IGNORED, Row


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the right: `input_ids`, `attention_mask` and `labels`, int64, (rows,
    longest).
    """
    ids = [torch.tensor(row.input_ids) for row in rows]
    labels = [torch.tensor(row.labels) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }
