"""The probe: proves from a server's answers which adapter it serves.

The worker measured what base and adapter answer to fixed prompts (`fingerprint.json`). With e the
worker's log-probabilities and s those of the servers, old and new, d = e_new - e_old, and

    x = (s_new - s_old) . d / d . d

is near 1 when the server changed as the worker says it should, and near 0 when it did not change.
That alone lets another strong adapter pass (0.55 was measured), so the change must also point the
right way: the cosine between s_new - s_old and d. It is asked for only where d is well above the
noise of quantisation, which decides the direction for a weak adapter (docs/serving.md).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import msgspec
from msgspec import Struct

from honed.domain.fingerprint import FINGERPRINT_FILE, Fingerprint, FingerprintPrompt
from honed.errors import AdapterNotFoundError, ProbeFailedError
from honed.gateway.upstream import Address, UpstreamError, fetch

ACCEPT_ABOVE: Final = 0.5
ACCEPT_BELOW: Final = 1.5
ACCEPT_COSINE: Final = 0.65
"""Measured on F32, F16, Q8_0 and Q4_0: the right adapter 0.74 and more, another one 0.48 at most."""
_LOUD: Final = 0.05
_LOUD_ALONE: Final = 1.0
"""Nats, root mean square of d, from which on upper bound and cosine are asked for. Without a former
server the whole error of a quantised base is in the way, 0.35 to 0.65 nats on Q4_0.
"""
_LEAST_DIFFERENCE: Final = 1e-4
"""Nats; two models that differ less everywhere cannot be told apart by float32 log-probabilities.
"""
_TIMEOUT_S: Final = 30.0
_FIRST_PROBS: Final = 512
"""How many of the likeliest tokens are asked for first; the whole vocabulary only if one of ours is
not among them.
"""

Answers = tuple[float, ...]
"""Log-probabilities of all prompts' tokens, in the fingerprint's order, nats."""


class Proof(NamedTuple):
    """What a probe found."""

    x: float
    """1: changed as expected; 0: not changed."""
    cosine: float
    """1: changed in the expected direction, however far."""
    expected: float
    """How far the answers should have moved, root mean square, nats."""
    is_relative: bool
    """Whether the former server's answers were at hand; without them quantisation counts as change.
    """

    @property
    def is_accepted(self) -> bool:
        """Whether the server serves what it should."""
        if self.expected < (_LOUD if self.is_relative else _LOUD_ALONE):
            return self.x > ACCEPT_ABOVE
        return ACCEPT_ABOVE < self.x < ACCEPT_BELOW and self.cosine > ACCEPT_COSINE

    def facts(self) -> dict[str, float | bool]:
        """For the log."""
        return {
            "x": round(self.x, 3),
            "cosine": round(self.cosine, 3),
            "expected_nats": round(self.expected, 4),
            "is_relative": self.is_relative,
        }


class _TokenProb(Struct):
    id: int
    logprob: float


class _Position(Struct):
    top_logprobs: list[_TokenProb] = []


class _Completion(Struct):
    completion_probabilities: list[_Position] = []


class _Tokens(Struct):
    tokens: list[int]


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


async def ask(address: Address, fingerprint: Fingerprint) -> Answers:
    """What a server answers to the fingerprint's prompts; goes past the relay, so nothing is
    captured.

    Raises:
        ProbeFailedError: it does not answer within 30 s in all, or not with log-probabilities.
    """
    try:
        with anyio.fail_after(_TIMEOUT_S):
            printable = await _printable(address)
            answers: list[float] = []
            for prompt in fingerprint.prompts:
                answers += await _logprobs(address, prompt, fingerprint.vocab_size, printable)
            return tuple(answers)
    except TimeoutError:
        raise ProbeFailedError(
            f"{address} did not answer the probe within {_TIMEOUT_S:.0f} s"
        ) from None
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ProbeFailedError(f"{address} did not answer the probe: {error}") from error


async def _printable(address: Address) -> int:
    """A token that is whole text: after an incomplete one llama-server leaves the probabilities
    out.
    """
    body = await _post(address, "/tokenize", {"content": "a", "add_special": False})
    tokens = msgspec.json.decode(body, type=_Tokens).tokens
    if not tokens:
        raise ProbeFailedError(f"{address} has no token for the letter a")
    return tokens[0]


async def _logprobs(
    address: Address, prompt: FingerprintPrompt, vocab_size: int, printable: int
) -> list[float]:
    likeliest = max(_FIRST_PROBS, 2 * len(prompt.token_ids))
    for num_probs in (min(likeliest, vocab_size), vocab_size):
        order = {
            "prompt": prompt.prompt_ids,
            "n_predict": 1,
            "n_probs": num_probs,
            "temperature": 0,
            "cache_prompt": False,
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


def compare(
    new: Fingerprint | None, old: Fingerprint | None, s_new: Answers, s_old: Answers | None
) -> Proof:
    """Compare what two servers answer with what the worker says.

    Args:
        new: of the adapter that should answer now; None is the bare base.
        old: of the adapter that answered before; None is the bare base. One of the two is given.
        s_new: the new server's answers to the prompts of `new` (of `old` when `new` is None).
        s_old: the old server's answers to the same prompts; None when they are not to be had.

    Raises:
        ProbeFailedError: nothing that the worker measured tells the two apart.
    """
    asked = new or old
    assert asked is not None
    e_base = _joined([prompt.base for prompt in asked.prompts])
    e_new = _joined([prompt.adapter for prompt in asked.prompts]) if new else e_base
    e_old = e_base
    if old is not None and ask_the_same(asked, old):
        e_old = _joined([prompt.adapter for prompt in old.prompts])
    elif old is not None:
        s_old = None
    if new is not None and (s_old is None or not _differ(e_new, e_old)):
        # Nothing served before, or nothing that compares: the worker's values for the base stand
        # in.
        e_old, s_old = e_base, None
    if not _differ(e_new, e_old):
        raise ProbeFailedError(
            "the probe cannot tell the adapter from the model before it: "
            f"their log-probabilities differ by less than {_LEAST_DIFFERENCE} nats everywhere"
        )
    d = [a - b for a, b in zip(e_new, e_old, strict=True)]
    moved = [a - b for a, b in zip(s_new, s_old or e_old, strict=True)]
    product = sum(a * b for a, b in zip(moved, d, strict=True))
    length, moved_length = math.hypot(*d), math.hypot(*moved)
    return Proof(
        x=product / length**2,
        cosine=product / (length * moved_length) if moved_length else 0.0,
        expected=length / math.sqrt(len(d)),
        is_relative=s_old is not None,
    )


def _joined(parts: Sequence[Answers]) -> Answers:
    return tuple(value for part in parts for value in part)


def ask_the_same(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two fingerprints have the same prompts and tokens, so that their answers line up."""
    return [(p.prompt_ids, p.token_ids) for p in one.prompts] == [
        (p.prompt_ids, p.token_ids) for p in other.prompts
    ]


def _differ(one: Answers, other: Answers) -> bool:
    return any(abs(a - b) > _LEAST_DIFFERENCE for a, b in zip(one, other, strict=True))
