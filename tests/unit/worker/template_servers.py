"""The families' chat templates, each in the GGUF of a tiny base model and served by llama-server."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from tests.tiny_models import conversations, make_tiny_gguf, offline

FOLDER: Final = Path(__file__).parents[2] / "templates"


class Family(NamedTuple):
    """The special tokens of a model family; the beginning and the end of text first."""

    bos: str | None
    eos: str
    others: tuple[str, ...] = ()


_CHATML: Final = ("<|im_start|>", "<|endoftext|>")
_HEADERS: Final = ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>")
_INST: Final = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_RESULTS: Final = ("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]", "[CALL_ID]")
_SYSTEM: Final = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
FAMILIES: Final[Mapping[str, Family]] = {
    "chatml": Family(None, "<|im_end|>", _CHATML),
    "gemma-2": Family("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "gemma-3": Family("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "glm-4.6": Family("[gMASK]", "<|endoftext|>", ("<sop>", "<|observation|>", *_ROLES)),
    "granite-3.3": Family(
        "<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>")
    ),
    "granite-4.0": Family(
        "<|end_of_text|>", "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>")
    ),
    "lfm2": Family(
        "<|startoftext|>", "<|im_end|>", ("<|tool_call_start|>", "<|tool_call_end|>", *_CHATML)
    ),
    "llama-3": Family("<|begin_of_text|>", "<|eot_id|>", _HEADERS),
    "llama-3.1": Family("<|begin_of_text|>", "<|eot_id|>", _HEADERS),
    "mistral-nemo": Family("<s>", "</s>", (*_INST, *_RESULTS)),
    "mistral-small-3.2": Family("<s>", "</s>", (*_INST, *_RESULTS, *_SYSTEM)),
    "mistral-v1": Family("<s>", "</s>"),
    "mistral-v3": Family("<s>", "</s>", (*_INST, *_RESULTS)),
    "olmo-2": Family("<|endoftext|>", "<|endoftext|>"),
    "phi-3": Family("<s>", "<|endoftext|>", ("<|end|>", *_ROLES)),
    "phi-3.5": Family("<s>", "<|endoftext|>", ("<|end|>", *_ROLES)),
    "prose": Family("<s>", "</s>"),
    "qwen2.5": Family(None, "<|im_end|>", _CHATML),
    "qwen3": Family(None, "<|im_end|>", _CHATML),
    "qwq": Family(None, "<|im_end|>", _CHATML),
    "smollm3": Family("<|begin_of_text|>", "<|im_end|>", _CHATML),
}


def source(name: str) -> str:
    """The template's text."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def make_bases(folder: Path) -> dict[str, Path]:
    """A base model for each family: one set of random weights, the family's tokens and template."""
    offline()
    from transformers import set_seed

    from honed.worker.examples import Example
    from honed.worker.pretrain import make_model, make_tokenizer, save_base

    set_seed(0)
    examples = [Example(row["messages"]) for row in conversations()]
    tokenizer = make_tokenizer(examples, vocab_size=400)
    tokens = {t for family in FAMILIES.values() for t in (family.bos, family.eos, *family.others)}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(filter(None, tokens))})
    weights = folder / "weights"
    save_base(make_model(len(tokenizer), hidden_size=64, num_layers=1), tokenizer, weights)
    bases = {}
    for name, family in FAMILIES.items():
        bases[name] = folder / name
        bases[name].mkdir()
        for path in weights.glob("*"):
            if path.name in ("config.json", "model.safetensors"):
                (bases[name] / path.name).hardlink_to(path)
        tokenizer.bos_token, tokenizer.eos_token = family.bos, family.eos
        tokenizer.chat_template = source(name)
        tokenizer.save_pretrained(bases[name])
    return bases


_SERVERS = """
import ctypes, json, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
import xllamacpp as x
servers = []
for path in sys.argv[1:]:
    p = x.CommonParams()
    p.model.path = path
    p.hostnames = ["127.0.0.1"]
    p.port = 0
    p.n_ctx = 256
    p.n_threads_http = 1
    p.warmup = p.ui = p.fit_params = False
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    servers.append(x.Server(p))
print(json.dumps([server.listening_address for server in servers]), flush=True)
sys.stdin.read()
"""


class TemplateServer:
    """One family's llama-server."""

    def __init__(self, client: httpx.Client, address: str) -> None:
        self._client = client
        self._address = address

    def capabilities(self) -> dict[str, bool]:
        """What the server has found out about its template."""
        answer = self._client.get(f"{self._address}/props").raise_for_status()
        found: dict[str, bool] = answer.json()["chat_template_caps"]
        return found

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str | None:
        """The text; None when the server refuses the conversation."""
        body: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            body["tools"] = tools
        answer = self._client.post(f"{self._address}/apply-template", json=body)
        if answer.is_error:
            return None
        prompt: str = answer.json()["prompt"]
        return prompt


@contextmanager
def template_servers(bases: Mapping[str, Path], log: Path) -> Iterator[dict[str, TemplateServer]]:
    """A server for each base, all in one child process."""
    models = [str(make_tiny_gguf(base, base / "base.gguf")) for base in bases.values()]
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", _SERVERS, *models],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, log.read_text()[-2000:]
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(limits=limits, timeout=30) as client:
            servers = [TemplateServer(client, address) for address in json.loads(line)]
            yield dict(zip(bases, servers, strict=True))
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
