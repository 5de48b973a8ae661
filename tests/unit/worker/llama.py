"""The real llama.cpp server in a child process, for comparisons of log-probabilities."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_SERVER = """
import ctypes, json, signal, sys, threading
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
import xllamacpp as x
model, adapters = sys.argv[1], sys.argv[2:]
p = x.CommonParams()
p.model.path = model
p.hostnames = ["127.0.0.1"]
p.port = 0
p.lora_adapters = [x.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
p.n_ctx = 4096
p.ui = False
p.fit_params = False
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32  # half precision alone costs 2e-3 nats
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = x.Server(p)
print(json.dumps(server.listening_address), flush=True)
sys.stdin.read()
"""


@contextmanager
def llama_server(model: Path, *adapters: Path, log: Path) -> Iterator[httpx.Client]:
    """A client of a server that has loaded the model and applies the adapters at scale 1."""
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(model), *map(str, adapters)],
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
        with httpx.Client(base_url=json.loads(line), limits=limits, timeout=30) as client:
            yield client
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def next_token_logprobs(
    client: httpx.Client, prompt_ids: list[int], vocab_size: int
) -> list[float]:
    """Log-probabilities of every token of the vocabulary after the prompt."""
    answer = client.post(
        "/completion",
        json={
            "prompt": prompt_ids,
            "n_predict": 1,
            "n_probs": vocab_size,
            "temperature": 0,
            "cache_prompt": False,
            # an incomplete UTF-8 token returns no probabilities: force a printable one, they stay
            # raw
            "logit_bias": [[40, 1000]],
        },
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["completion_probabilities"][0]
    by_id = {entry["id"]: entry["logprob"] for entry in found["top_logprobs"]}
    return [by_id[i] for i in range(vocab_size)]
