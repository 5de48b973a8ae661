"""What is measured, each kind in a JSON file of its own under `metrics/`; gates read them, and so may other programs.

A file may hold more than the fields that are told here; a number that is missing is absent, never 0.
"""

from typing import Final

from msgspec import Struct

SOURCES: Final = "sources.json"
RAW_DATA: Final = "raw-data.json"
ANNOTATIONS: Final = "annotations.json"
DATASET: Final = "dataset.json"
BASELINE: Final = "baseline.json"
EVALUATION: Final = "evaluation.json"
QUANTIZATION: Final = "quantization.json"
DEPLOYMENT: Final = "deployment.json"

ASSISTANT_TOKEN_ACCURACY: Final = "assistant_token_accuracy"
"""Share of the assistant's tokens that are the model's first choice after what stands before them, 0 to 100."""


class Tokens(Struct, frozen=True, array_like=True):
    """What was counted in one row of the test set."""

    num_tokens: int
    num_correct: int


class Baseline(Struct, frozen=True, kw_only=True):
    """`baseline.json`: the base model on the test set."""

    score: float
    """0 to 100."""
    test_digest: str
    """SHA-256 of the test file's bytes, `sha256:...`."""
    target: float
    """The score that an adapter must reach: `score` plus the improvement that was asked for."""
    metric: str = ASSISTANT_TOKEN_ACCURACY
    base_model: str | None = None
    loss: float | None = None
    """Nats per assistant token."""
    num_tokens: int | None = None
    max_length: int | None = None
    """Tokens of a row that were read."""
    rows: tuple[Tokens, ...] = ()
    """By row; empty when another program measured."""
    measured_at: int | None = None
    """Unix milliseconds, UTC."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """`evaluation.json`: an adapter on the test set of the baseline, compared with it."""

    score: float
    baseline_score: float
    improvement: float
    """Points: `score` minus `baseline_score`."""
    target: float
    """Of the baseline."""
    passed: bool
    """Whether `score` reaches `target`."""
    test_digest: str
    metric: str = ASSISTANT_TOKEN_ACCURACY
    improvement_low: float | None = None
    """Where the 95 % interval of the improvement begins (rows drawn anew)."""
    improvement_high: float | None = None
    base_model: str | None = None
    adapter: str | None = None
    """Its folder."""
    adapter_digest: str | None = None
    """SHA-256 of its weights, `sha256:...`."""
    loss: float | None = None
    baseline_loss: float | None = None
    num_tokens: int | None = None
    rows: tuple[Tokens, ...] = ()
    measured_at: int | None = None


class RawData(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`raw-data.json`, and with its first field `sources.json`."""

    samples: int
    diversity: int
    """Categories that at least one row has."""
    coverage: float | None = None
    """Percent of the expected categories that at least one row has; None: nobody said what is expected."""
    categories: dict[str, int] = {}
    missing: tuple[str, ...] = ()
    """Expected categories without a row."""


class Sources(Struct, frozen=True, kw_only=True):
    """`sources.json`: where the rows come from."""

    source_count: int
    sources: dict[str, int]
    """Rows by source."""
    untold: int
    """Rows that name none."""


class Annotations(Struct, frozen=True, kw_only=True):
    """`annotations.json`: how far those who labelled the same items agree."""

    agreement: float | None
    """Percent of the pairs of labels of one item that are the same; None: no item has two."""
    alpha: float | None
    """Krippendorff's alpha, nominal: agreement beyond chance; None where all labels are one."""
    num_items: int
    """Items with two labels or more."""
    num_labels: int
    num_annotators: int


class Quantization(Struct, frozen=True, kw_only=True):
    """`quantization.json`: what is left of the score after quantisation, measured on llama-server."""

    retention: float | None
    """Percent of the reference's score; None when that is 0."""
    score: float
    """Of the quantised model, 0 to 100."""
    reference_score: float
    agreement: float
    """Percent of the tokens where both have the same first choice."""
    num_tokens: int
    quantized: str
    reference: str
    adapter: str | None
    """Its GGUF file."""
    adapter_digest: str | None
    """SHA-256 of that file, `sha256:...`."""
    test_digest: str
    measured_at: int


class Deployment(Struct, frozen=True, kw_only=True):
    """`deployment.json`: a llama-server as it would serve, one request at a time."""

    tokens_per_second: float
    """Of generation, the median of the requests."""
    memory_gb: float
    """10^9 bytes: the server's peak resident memory, and what it took of the GPUs."""
    gpu_memory_gb: float
    num_requests: int
    num_tokens: int
    model: str
    adapter: str | None
    """Its GGUF file."""
    adapter_digest: str | None
    """SHA-256 of that file, `sha256:...`."""
    measured_at: int
