"""What was measured on one held-out episode, for the gate."""

from msgspec import Struct


class EpisodeScore(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Log-probability of one episode's assistant tokens, and what else was measured on it."""

    num_tokens: int
    """Assistant tokens that were scored; 0 when cutting left none."""
    candidate: float
    """Mean log-probability per token under the candidate, nats."""
    incumbent: float
    """The same under the incumbent."""
    base: float | None = None
    """The same under the bare base; None where that is the incumbent, or was not asked."""
    candidate_accuracy: float | None = None
    """Share of the tokens that it finds the likeliest; None where it was not counted."""
    incumbent_accuracy: float | None = None
    candidate_success: bool | None = None
    """Whether the candidate did the episode's task, as a verifier saw it; None where nobody looked."""
    incumbent_success: bool | None = None
    base_success: bool | None = None
