"""The probe: asks a llama-server the prompts of a fingerprint; `domain.proof` says what the answers prove."""

from typing import Final

import anyio
import msgspec
from msgspec import Struct

from honed.domain.fingerprint import Fingerprint, FingerprintPrompt
from honed.domain.fingerprint import read_fingerprint as read_fingerprint
from honed.domain.proof import ACCEPT_ABOVE as ACCEPT_ABOVE
from honed.domain.proof import ACCEPT_COSINE as ACCEPT_COSINE
from honed.domain.proof import Answers as Answers
from honed.domain.proof import ask_the_same as ask_the_same
from honed.domain.proof import compare as compare
from honed.domain.proof import distance as distance
from honed.domain.proof import strength as strength
from honed.errors import ProbeFailedError
from honed.gateway.upstream import Address, UpstreamError, fetch

_TIMEOUT_S: Final = 30.0
_FIRST_PROBS: Final = 512
"""How many of the likeliest tokens are asked for first; the whole vocabulary only if one of ours is
not among them.
"""


class LoraScale(Struct, frozen=True):
    """An adapter of a llama-server, by its place in the server's list, and how strongly it answers."""

    id: int
    scale: float


class _TokenProb(Struct):
    id: int
    logprob: float


class _Position(Struct):
    top_logprobs: list[_TokenProb] = []


class _Completion(Struct):
    completion_probabilities: list[_Position] = []


class _Tokens(Struct):
    tokens: list[int]


async def ask(
    address: Address,
    fingerprint: Fingerprint,
    *,
    slot: int = -1,
    has_cache: bool = False,
    lora: tuple[LoraScale, ...] | None = None,
    model: str | None = None,
) -> Answers:
    """What a server answers to the fingerprint's prompts; goes past the relay, so nothing is
    captured.

    Args:
        address: of the server.
        fingerprint: what is asked.
        slot: which of its slots is asked; -1 leaves it to the server.
        has_cache: whether it may answer from a prompt cache.
        lora: all its adapters; None: those that it was started with.
        model: which of its models is asked, where it is a router.

    Raises:
        ProbeFailedError: it does not answer within 30 s in all, or not with log-probabilities.
    """
    try:
        with anyio.fail_after(_TIMEOUT_S):
            named = {} if model is None else {"model": model}
            printable = await _printable(address, named)
            answers: list[float] = []
            for prompt in fingerprint.prompts:
                how: dict[str, object] = {"id_slot": slot, "cache_prompt": has_cache, **named}
                if lora is not None:
                    how["lora"] = lora
                answers += await _logprobs(address, prompt, fingerprint.vocab_size, printable, how)
            return tuple(answers)
    except TimeoutError:
        raise ProbeFailedError(
            f"{address} did not answer the probe within {_TIMEOUT_S:.0f} s"
        ) from None
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ProbeFailedError(f"{address} did not answer the probe: {error}") from error


async def _printable(address: Address, named: dict[str, str]) -> int:
    """A token that is whole text: after an incomplete one llama-server leaves the probabilities
    out.
    """
    body = await _post(address, "/tokenize", {"content": "a", "add_special": False, **named})
    tokens = msgspec.json.decode(body, type=_Tokens).tokens
    if not tokens:
        raise ProbeFailedError(f"{address} has no token for the letter a")
    return tokens[0]


async def _logprobs(
    address: Address,
    prompt: FingerprintPrompt,
    vocab_size: int,
    printable: int,
    how: dict[str, object],
) -> list[float]:
    likeliest = max(_FIRST_PROBS, 2 * len(prompt.token_ids))
    for num_probs in (min(likeliest, vocab_size), vocab_size):
        order = {
            "prompt": prompt.prompt_ids,
            "n_predict": 1,
            "n_probs": num_probs,
            "temperature": 0,
            **how,
            # Forces the token; the probabilities that come back are those before it.
            "logit_bias": [[printable, 1000]],
        }
        completion = msgspec.json.decode(
            await _post(address, "/completion", order), type=_Completion
        )
        if not completion.completion_probabilities:
            raise ProbeFailedError(f"{address} answered the probe without probabilities")
        found = {
            each.id: each.logprob for each in completion.completion_probabilities[0].top_logprobs
        }
        if all(id in found for id in prompt.token_ids):
            return [found[id] for id in prompt.token_ids]
    missing = [id for id in prompt.token_ids if id not in found]
    raise ProbeFailedError(
        f"{address} has no probability for the tokens {missing[:5]}",
        advice="the base model of the adapter and the one that is served are not the same",
    )


async def _post(address: Address, path: str, order: object) -> bytes:
    body = msgspec.json.encode(order)
    status, answer = await fetch(address, "POST", path, body, timeout_s=_TIMEOUT_S)
    if status != 200:
        raise ProbeFailedError(f"{address}{path} answered the probe with status {status}")
    return answer
