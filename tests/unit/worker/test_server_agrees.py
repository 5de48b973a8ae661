"""The real llama-server says what transformers and PEFT say.

Tolerance: 0.03 over the whole vocabulary in F32, the effect of the adapters being larger than one
nat.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from honed.domain.fingerprint import FINGERPRINT_FILE, Fingerprint
from honed.worker.base_model import load_tokenizer
from honed.worker.served import ServedTemplate
from tests.tiny_models import make_tiny_adapter
from tests.unit.worker.llama import llama_server, next_token_logprobs

TOLERANCE = 0.03

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "book",
            "description": "Books a flight to Zürich.",
            "parameters": {"type": "object", "properties": {"seats": {"type": "integer"}}},
        },
    }
]
CALLS = [
    {"id": "a", "type": "function", "function": {"name": "book", "arguments": '{"seats":2}'}},
    {
        "id": "b",
        "type": "function",
        "function": {"name": "book", "arguments": '{"to": ["Zürich",2.50]}'},
    },
]
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You book flights."},
    {"role": "user", "content": "two seats, please"},
    {"role": "assistant", "content": None, "tool_calls": CALLS[:1]},
    {"role": "tool", "tool_call_id": "a", "content": "done"},
    {"role": "assistant", "content": "One more.", "tool_calls": CALLS[1:]},
    {"role": "tool", "tool_call_id": "b", "content": "done"},
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "and now?"},
]


@pytest.fixture(scope="module")
def base_server(
    tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    with llama_server(tiny_gguf, log=tmp_path_factory.mktemp("log") / "llama.log") as client:
        yield client


def fingerprint(folder: Path) -> Fingerprint:
    return msgspec.json.decode((folder / FINGERPRINT_FILE).read_bytes(), type=Fingerprint)


def largest_difference(client: httpx.Client, print_: Fingerprint, side: str) -> float:
    return max(
        abs(served - expected)
        for prompt in print_.prompts
        for served, expected in zip(
            next_token_logprobs(client, list(prompt.prompt_ids), print_.vocab_size),
            getattr(prompt, side),
            strict=True,
        )
    )


def test_base_gguf_is_the_hf_model(
    base_server: httpx.Client, tiny_adapters: tuple[Path, Path]
) -> None:
    """The converted base gives transformers' log-probabilities over the whole vocabulary."""
    assert largest_difference(base_server, fingerprint(tiny_adapters[0]), "base") < TOLERANCE


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 4}, "rank_pattern": {"layers.1.mlp.down_proj": 3}},
    ],
    ids=["plain", "rslora", "patterns"],
)
def test_gguf_adapter_is_the_peft_adapter(
    tiny_base: Path, tiny_gguf: Path, tmp_path: Path, lora: dict[str, Any]
) -> None:
    """The adapter in llama-server gives PEFT's log-probabilities, far from the base's."""
    folder = make_tiny_adapter(tiny_base, tmp_path / "a", **lora)
    expected = fingerprint(folder)
    with llama_server(tiny_gguf, folder / "adapter.gguf", log=tmp_path / "log") as client:
        assert largest_difference(client, expected, "adapter") < TOLERANCE
        assert largest_difference(client, expected, "base") > 1.0


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_template_renders_as_the_server_does(
    base_server: httpx.Client, tiny_base: Path, tools: list[dict[str, Any]] | None
) -> None:
    """What is trained on is, to the letter, what the server asks the model."""
    body = {"messages": CONVERSATION} | ({"tools": tools} if tools else {})
    served = base_server.post("/apply-template", json=body).raise_for_status().json()["prompt"]
    template = ServedTemplate.of(load_tokenizer(tiny_base))
    trained = template.render(CONVERSATION, tools, add_generation_prompt=True)
    assert trained == served


@pytest.mark.parametrize(
    "text", ["disk: inspect", "  odd   spaces\n\n\n", "naïve 日本語 🙂", "it's 12345<|im_end|>\n"]
)
def test_tokens_are_the_servers_tokens(
    base_server: httpx.Client, tiny_base: Path, text: str
) -> None:
    """A wrong pre-tokenizer would be silent: the ids are compared."""
    served = base_server.post("/tokenize", json={"content": text}).raise_for_status().json()
    ids = load_tokenizer(tiny_base)(text, add_special_tokens=False)["input_ids"]
    assert served["tokens"] == ids
