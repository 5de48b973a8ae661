"""How an adapter can be recognised by its answers: log-probabilities of fixed prompts.

Written by the worker as `fingerprint.json` beside the adapter, compared by the gateway with what a server answers.
The prompts and ids depend on the base model alone, so the fingerprints of two adapters of one base line up.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from honed.errors import AdapterNotFoundError

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


def read_fingerprint(adapter: Path) -> Fingerprint:
    """The fingerprint in an adapter's folder.

    Raises:
        AdapterNotFoundError: it is not there or cannot be read.
    """
    path = adapter / FINGERPRINT_FILE
    try:
        fingerprint = msgspec.json.decode(path.read_bytes(), type=Fingerprint)
    except (OSError, msgspec.DecodeError) as error:
        raise AdapterNotFoundError(f"{path} cannot be read: {error}") from error
    if not fingerprint.prompts or not all(_is_whole(prompt) for prompt in fingerprint.prompts):
        raise AdapterNotFoundError(f"{path} has no prompts, or prompts without values")
    return fingerprint


def _is_whole(prompt: FingerprintPrompt) -> bool:
    count = len(prompt.token_ids)
    return bool(prompt.prompt_ids) and 0 < count == len(prompt.base) == len(prompt.adapter)
