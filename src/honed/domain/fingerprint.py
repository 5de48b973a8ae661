"""How an adapter can be recognised by its answers: log-probabilities of fixed prompts.

Written by the worker as `fingerprint.json` beside the adapter, compared by the gateway with what a server answers.
The prompts and ids depend on the base model alone, so the fingerprints of two adapters of one base line up.
"""

from typing import Final

from msgspec import Struct

FINGERPRINT_FILE: Final = "fingerprint.json"


class FingerprintPrompt(Struct, frozen=True, kw_only=True):
    """Log-probabilities of the next token after one prompt, with temperature 1, in nats."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """K vocabulary ids: the likeliest under the base model."""
    base: tuple[float, ...]
    """K log-probabilities under the base model."""
    adapter: tuple[float, ...]
    """K log-probabilities under base and adapter."""


class Fingerprint(Struct, frozen=True, kw_only=True):
    """What base and adapter answer to a few fixed prompts."""

    vocab_size: int
    prompts: tuple[FingerprintPrompt, ...]
