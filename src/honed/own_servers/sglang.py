"""What SGLang calls things.

Source: SGLang's documentation, "LoRA Serving": `POST /load_lora_adapter` {lora_name, lora_path} and `POST
/unload_lora_adapter` {lora_name}, which ends when the requests that use the adapter have; both answer {success,
error_message, loaded_adapters}, with status 400 where `success` is false, and need `--enable-lora`, `--max-lora-rank`
and `--lora-target-modules`. `GET /v1/models` lists adapters with `root` (the path) and `parent` (the base); requests
name one as `BASE:ADAPTER`. "Native APIs", `/generate`: `input_ids`, `lora_path` (an adapter's name), `return_logprob`
with `token_ids_logprob`; in `meta_info.output_token_ids_logprobs` each is [log-probability, token id, text]. Tried
against that documentation only.
"""

from typing import Any

from msgspec import Struct

from honed.domain.fingerprint import FingerprintPrompt
from honed.own_servers.dialect import tells_none
from honed.own_servers.server import Server


class _Meta(Struct):
    output_token_ids_logprobs: list[list[Any] | None] | None = None


class _Generated(Struct):
    meta_info: _Meta


class Sglang:
    """The dialect of SGLang."""

    what = "SGLang"
    load_path = "/load_lora_adapter"
    unload_path = "/unload_lora_adapter"
    not_enabled = "start SGLang with --enable-lora, --max-lora-rank and --lora-target-modules"

    def requested(self, base: str, name: str) -> str:
        """An adapter is named behind its base model."""
        return f"{base}:{name}"

    async def logprobs(
        self,
        server: Server,
        base: str,
        adapter: str | None,
        prompt: FingerprintPrompt,
        *,
        salt: str,
    ) -> dict[int, float] | None:
        """Those of exactly the prompt's tokens; its cache knows adapters apart by itself. See Dialect."""
        body = {
            "input_ids": prompt.prompt_ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "token_ids_logprob": prompt.token_ids,
            "lora_path": adapter,
        }
        answer = await server.ask("POST", "/generate", body)
        if await tells_none(server, answer, "the probe"):
            return None
        told = server.decoded(answer, _Generated, "the probe").meta_info.output_token_ids_logprobs
        if not told or not told[0]:
            return None
        return {entry[1]: float(entry[0]) for entry in told[0] if entry[0] is not None}
