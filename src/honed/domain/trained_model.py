"""What a training run leaves behind: the adapter, its lineage, and the verdict on it."""

from typing import Literal

from msgspec import Struct

from honed.domain.verdict import Seen

Decision = Literal["pass", "fail", "not_enough_evidence"]
Proof = Literal["verified", "outcome", "imitation"]
Method = Literal["sft", "dpo", "kto", "grpo"]
Selection = Literal["successes", "blind"]


class Interval(Struct, frozen=True, kw_only=True):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class GateResult(Struct, frozen=True, kw_only=True):
    """The gate's verdict on a candidate, measured against one incumbent."""

    decision: Decision
    proof: Proof
    """What was measured: task success, the outcome contrast, or imitation only (facts in docs/gate.md)."""
    incumbent_id: str | None
    """The adapter it was measured against; None is the bare base model. Apply is a compare-and-swap on it."""
    reason: str
    """The decision in one sentence, with its figures."""
    num_successes: int
    """Held-out successes that were scored."""
    num_failures: int
    gain_on_successes: Interval | None = None
    """Mean over held-out successes of the gain in nats per assistant token."""
    gain_on_failures: Interval | None = None
    contrast: Interval | None = None
    """Gain on successes minus gain on failures."""
    p_value: float | None = None
    """One-sided, of the contrast (or gain) by permutation."""
    held_out_loss_before: float | None = None
    """Mean loss of the incumbent on the assistant tokens of held-out successes, nats per token."""
    held_out_loss_after: float | None = None
    checked_at_ms: int = 0

    @property
    def passed(self) -> bool:
        """Whether the candidate may go live by itself."""
        return self.decision == "pass"


class TrainingMetrics(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was measured in a run; None where nothing was."""

    final_loss: float | None = None
    mean_loss: float | None = None
    training_time_secs: float | None = None
    gpu_memory_mb: float | None = None
    peak_rss_mb: float | None = None
    num_steps: int | None = None
    num_tokens: int | None = None
    """Tokens that entered the loss, per epoch."""
    dropped_rows: int | None = None
    """Conversations of which nothing entered the loss."""
    dropped_tokens: dict[str, int] = {}
    """The assistant's tokens that should have entered the loss and did not, by reason."""
    extra: dict[str, float] = {}


class TrainedModel(Struct, frozen=True, kw_only=True):
    """The adapter of one run."""

    id: str
    """`scenario@n`, also the name of its folder."""
    scenario: str
    run_id: str
    base_model: str
    learn_model: str
    method: Method
    adapter_path: str
    """Folder with adapter_config.json, adapter_model.safetensors, adapter.gguf, manifest.json."""
    gguf_path: str | None
    digest: str
    """SHA-256 over the adapter's files."""
    data_digest: str
    """SHA-256 of the training file."""
    episode_ids: tuple[str, ...]
    """What it learned from."""
    sample_count: int
    created_at_ms: int
    selection: Selection = "successes"
    """`blind`: a control, trained without looking at outcomes; never goes live by itself."""
    parent_id: str | None = None
    """The adapter that was in service when the run began."""
    metrics: TrainingMetrics | None = None
    gate: GateResult | None = None
    seen: Seen | None = None
    """Which verdicts on those episodes it went by; None when it is older than this field."""
