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


class SliceResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a part of the held-out episodes shows."""

    name: str
    """`kind=value`; several that are the same episodes, with commas between."""
    num_episodes: int
    gain: Interval | None = None
    """In the measure of the verdict; None where the part is too small for an interval."""
    p_worse: float | None = None
    """One-sided, that the candidate does worse there; None where that could not be tested."""
    is_protected: bool = False
    is_harmed: bool = False


class MetricResult(Struct, frozen=True, kw_only=True):
    """A user's own measure: positive where the candidate is better."""

    name: str
    gain: Interval | None
    p_worse: float


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
    """One-sided, of what decided: exact for task success, else by permutation."""
    held_out_loss_before: float | None = None
    """Mean loss of the incumbent on the assistant tokens of held-out successes, nats per token."""
    held_out_loss_after: float | None = None
    accuracy_before: float | None = None
    """Share of the assistant tokens of held-out successes that the incumbent finds the likeliest."""
    accuracy_after: float | None = None
    success_gain: Interval | None = None
    """Task success of the candidate minus that of the incumbent on the same episodes, -1..1."""
    num_wins: int = 0
    """Episodes that the candidate did and the incumbent did not."""
    num_losses: int = 0
    over_base: Interval | None = None
    """What decided (success, contrast or gain), measured against the bare base instead of the incumbent."""
    look: int = 1
    """How often these held-out episodes, or most of them, have been looked at, this time included."""
    level: float | None = None
    """What `p_value` had to be at this look."""
    detectable: float | None = None
    """The true value of what decided with which the candidate would have passed in 80 % of the cases."""
    slices: tuple[SliceResult, ...] = ()
    """Protected suites, and the parts that look worst."""
    metrics: tuple[MetricResult, ...] = ()
    sketches: tuple[str, ...] = ()
    """What each test of this candidate saw of the held-out episodes, as the gate remembers it; the newest last."""
    episode_count: int | None = None
    """Episodes that there were then; a candidate without enough evidence is judged again when there are more."""
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
    probe_kl: float | None = None
    """Forgetting: mean KL divergence from the bare base on the frozen probe set, nats per token."""
    chosen_settings: dict[str, str] = {}
    """Settings that a preset or the method chose for this run, by name: the value and why."""
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
    method_reason: str = ""
    """Why this method; empty when it is older than this field."""
    started_from: str | None = None
    """The adapter whose weights it began with; None: the bare base."""
