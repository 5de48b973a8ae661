"""What is asked of the worker about a test set: how much of it a model foretells, and what its rows are as tokens."""

from typing import Literal

from msgspec import Struct

from honed.domain.running import TemplateName


class EvaluateJob(Struct, frozen=True, kw_only=True, tag="evaluate", tag_field="job"):
    """Count how many of the assistant's tokens a model foretells, on a test set."""

    base_model: str
    adapter_path: str | None
    """None: the bare base."""
    data_path: str
    """JSON lines in the form of `TrainJob.data_path`; line n is `rows[n]`."""
    result_path: str
    max_length: int = 2048
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    chat_template: TemplateName | None = None
    """None: the model's own."""


class TokeniseJob(Struct, frozen=True, kw_only=True, tag="tokenise", tag_field="job"):
    """Give the first rows of a file as tokens; the model's weights are not loaded."""

    base_model: str
    data_path: str
    """JSON lines in the form of `TrainJob.data_path`."""
    result_path: str
    max_length: int
    num_targets: int
    """Rows are given until they have so many tokens that count."""
    chat_template: TemplateName | None = None


class Foretold(Struct, frozen=True, array_like=True):
    """How a model did on one row."""

    num_tokens: int
    """Assistant tokens; 0 when cutting left none."""
    num_correct: int
    """Those that were its first choice."""
    log_prob: float
    """Of all of them, nats."""


class EvaluateResult(Struct, frozen=True, kw_only=True, tag="evaluated", tag_field="result"):
    """A finished EvaluateJob."""

    rows: tuple[Foretold, ...]


class TokenRow(Struct, frozen=True, array_like=True):
    """One row as tokens."""

    input_ids: tuple[int, ...]
    targets: tuple[int, ...]
    """Positions of the tokens that count."""


class TokeniseResult(Struct, frozen=True, kw_only=True, tag="tokenised", tag_field="result"):
    """A finished TokeniseJob."""

    rows: tuple[TokenRow, ...]
