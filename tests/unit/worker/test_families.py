"""Each family's base and adapter say in the real llama-server what they say in transformers and PEFT.

docs/models.md states the errors that this measures (they are properties in a JUnit report).
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from honed.worker.gguf_base import write_base
from tests.unit.worker.families import (
    FAMILIES,
    log_probabilities,
    make_adapter,
    make_model,
)
from tests.unit.worker.llama import llama_server, next_token_logprobs

PROMPT_IDS = [(7 * i * i + 3) % 300 + 3 for i in range(60)]
"""Longer than the tiny models' sliding windows and original contexts."""


def largest_error(
    base_gguf: Path, adapters: tuple[Path, ...], expected: list[float], log: Path
) -> float:
    with llama_server(base_gguf, *adapters, log=log) as client:
        served = next_token_logprobs(client, PROMPT_IDS, len(expected))
    return max(abs(s - e) for s, e in zip(served, expected, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_server_computes_what_transformers_computes(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Base and LoRA on all linear layers give equal log-probabilities over the whole vocabulary."""
    family = FAMILIES[name]
    base, base_gguf, log = tmp_path / "base", tmp_path / "base.gguf", tmp_path / "log"
    make_model(family, base)
    write_base(base, base_gguf)
    adapter = make_adapter(base, tmp_path / "adapter")
    of_base = log_probabilities(base, None, PROMPT_IDS)
    of_adapter = log_probabilities(base, adapter, PROMPT_IDS)
    effect = max(abs(a - b) for a, b in zip(of_adapter, of_base, strict=True))
    base_error = largest_error(base_gguf, (), of_base, log)
    adapter_error = largest_error(base_gguf, (adapter / "adapter.gguf",), of_adapter, log)
    record_property(name, (base_error, adapter_error, effect))
    assert base_error < family.tolerance
    assert adapter_error < family.tolerance
    assert effect > 0.5
