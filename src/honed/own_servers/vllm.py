"""What vLLM calls things.

Source: vLLM's documentation, "LoRA Adapters" (docs/features/lora.md): `POST /v1/load_lora_adapter` {lora_name,
lora_path} and `POST /v1/unload_lora_adapter` {lora_name}, both only with `--enable-lora` and
VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; adapters in `GET /v1/models` with `root` (the path) and `parent` (the base).
"OpenAI-Compatible Server": `/v1/completions` with token ids as prompt, `logprobs` (20 at most unless `--max-logprobs`
says otherwise) and `return_tokens_as_token_ids`, which gives tokens as `token_id:N`; "Automatic Prefix Caching":
requests share states only with those of the same `cache_salt`. Tried against that documentation only.
"""

from typing import Final

from msgspec import Struct

from honed.domain.fingerprint import FingerprintPrompt
from honed.own_servers.dialect import tells_none
from honed.own_servers.server import Server

_LIKELIEST: Final = 20
_TOKEN: Final = "token_id:"


class _Logprobs(Struct):
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(Struct):
    logprobs: _Logprobs | None = None


class _Completion(Struct):
    choices: list[_Choice]


class Vllm:
    """The dialect of vLLM."""

    what = "vLLM"
    load_path = "/v1/load_lora_adapter"
    unload_path = "/v1/unload_lora_adapter"
    not_enabled = "start vLLM with --enable-lora and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"

    def requested(self, base: str, name: str) -> str:
        """An adapter's name is a model's name."""
        return name

    async def logprobs(
        self,
        server: Server,
        base: str,
        adapter: str | None,
        prompt: FingerprintPrompt,
        *,
        salt: str,
    ) -> dict[int, float] | None:
        """Those of the likeliest tokens; see Dialect."""
        body = {
            "model": adapter or base,
            "prompt": prompt.prompt_ids,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": _LIKELIEST,
            "return_tokens_as_token_ids": True,
            # Its prefix cache goes by the adapter's name: other weights under the same name would not be noticed.
            "cache_salt": f"honed:{salt}",
        }
        answer = await server.ask("POST", "/v1/completions", body)
        if await tells_none(server, answer, "the probe"):
            return None
        choices = server.decoded(answer, _Completion, "the probe").choices
        told = choices[0].logprobs if choices else None
        top = (told.top_logprobs or [None])[0] if told else None
        if top is None:
            return None
        return {
            int(token.removeprefix(_TOKEN)): value
            for token, value in top.items()
            if token.startswith(_TOKEN) and token.removeprefix(_TOKEN).isdecimal()
        }
