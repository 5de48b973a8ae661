"""Parity of a server with the base model's facts: does it read and render as training does?

A wrong pre-tokenizer or chat template is silent: the server answers, and is asked with other tokens
than those that were trained on. So each server is asked, before it is put into service, for the
tokens of hard strings and the text of conversations. One that fails serves nothing.

Whoever sends a chat has its text tokenised with `add_special`. Where the file says that a beginning
token is added, llama-server takes it off the rendered text first; both are undone or done alike
here, so that what is compared is what the model sees.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import msgspec
from msgspec import Struct

from honed import log
from honed.domain.base_facts import (
    BaseFacts,
    RenderedConversation,
    TokenizedText,
    dated,
    read_facts,
)
from honed.errors import BaseMismatchError, ProbeFailedError
from honed.gateway.upstream import Address, UpstreamError, fetch

_TIMEOUT_S: Final = 30.0
_APPLY_TEMPLATE: Final = "/apply-template"
_AROUND: Final = 24
"""Characters that are shown from where texts differ."""
_ADVICE: Final = (
    "serve the GGUF of base_model: leave serve.base_model_path out to have it converted, or "
    "convert it anew with the tokenizer and chat template of that folder"
)


class _Tokens(Struct):
    tokens: list[int]


class _Prompt(Struct):
    prompt: str


def facts_for(base_gguf: Path, path: Path | None, *, scenario: str) -> BaseFacts | None:
    """The facts that a server of `base_gguf` is compared with; None when there are none.

    Raises:
        BaseMismatchError: the GGUF file is not the one that the facts were made for.
    """
    if path is None:
        return None
    facts = read_facts(path)
    if facts is None:
        log.get(scenario=scenario).warning(log.BASE_UNCOMPARED, facts=str(path))
    elif base_gguf.is_file() and not facts.gguf.is_unchanged(base_gguf):
        raise BaseMismatchError(
            f"{base_gguf} was changed since it was compared with {facts.base_model}: "
            f"expected {facts.gguf.size_bytes} bytes, found {base_gguf.stat().st_size}, "
            "or another time",
            advice="start `honed run` or `honed serve` again: they compare it anew",
        )
    return facts


class _Asked(NamedTuple):
    """A server, and what is put into each question."""

    address: Address
    named: dict[str, str]


async def check_server(address: Address, facts: BaseFacts, *, model: str | None = None) -> None:
    """See that a server tokenises and renders as the base model's folder says.

    Args:
        address: of the server.
        facts: what is expected of it.
        model: which of its models is asked, where it is a router.

    Raises:
        BaseMismatchError: it does not; the message has the first difference.
        ProbeFailedError: it could not be asked, which says nothing about its model.
    """
    asked = _Asked(address, {} if model is None else {"model": model})
    try:
        with anyio.fail_after(_TIMEOUT_S):
            for each in facts.strings:
                await _check_tokens(asked, each)
            for each_one in facts.conversations:
                await _check_conversation(asked, each_one, facts)
    except TimeoutError:
        raise ProbeFailedError(
            f"{address} could not be compared with its base model within {_TIMEOUT_S:.0f} s"
        ) from None
    except (UpstreamError, msgspec.DecodeError) as error:
        raise ProbeFailedError(
            f"{address} could not be compared with its base model: {error}"
        ) from error


async def _check_tokens(asked: _Asked, each: TokenizedText) -> None:
    found = await _tokenise(asked, each.text, add_special=False)
    if told := _first_token(each.token_ids, found):
        raise BaseMismatchError(
            f"the server tokenises {each.text!r} otherwise than training does: {told}",
            advice=_ADVICE,
        )


async def _check_conversation(asked: _Asked, each: RenderedConversation, facts: BaseFacts) -> None:
    order: dict[str, Any] = {
        "messages": each.messages,
        "add_generation_prompt": each.add_generation_prompt,
    }
    if each.tools:
        order["tools"] = each.tools
    asked_at = datetime.now().astimezone()
    found = msgspec.json.decode(await _post(asked, _APPLY_TEMPLATE, order), type=_Prompt).prompt
    texts = {dated(each.text, at) for at in (asked_at, datetime.now().astimezone())}
    if found not in set(_without_bos(texts, facts)):
        raise BaseMismatchError(
            f"the server renders the conversation '{each.name}' otherwise than training does: "
            f"{_first_letters(sorted(texts)[0], found)}",
            advice=_ADVICE,
        )
    if each.token_ids is None:
        return
    tokens = await _tokenise(asked, found, add_special=True)
    if told := _first_token(each.token_ids, tokens):
        raise BaseMismatchError(
            f"the server tokenises the conversation '{each.name}' otherwise than training does: "
            f"{told}",
            advice=_ADVICE,
        )


def _without_bos(texts: set[str], facts: BaseFacts) -> Iterator[str]:
    """The texts as a server may answer them: what it adds as a token it takes off the text."""
    for text in texts:
        yield text
        if facts.bos_token and text.startswith(facts.bos_token):
            yield text.removeprefix(facts.bos_token)


async def _tokenise(asked: _Asked, text: str, *, add_special: bool) -> list[int]:
    order = {"content": text, "add_special": add_special, "parse_special": True}
    body = await _post(asked, "/tokenize", order)
    return msgspec.json.decode(body, type=_Tokens).tokens


async def _post(asked: _Asked, path: str, order: dict[str, Any]) -> bytes:
    body = msgspec.json.encode(order | asked.named)
    status, answer = await fetch(asked.address, "POST", path, body, timeout_s=_TIMEOUT_S)
    if status == 404:
        raise BaseMismatchError(
            f"the server has no {path}, so it cannot be compared with its base model",
            advice="name a newer llama-server in serve.llama_server",
        )
    if status == 200:
        return answer
    told = (
        f"the server answered {path} with status {status}: {answer[:200].decode(errors='replace')}"
    )
    if path == _APPLY_TEMPLATE and status in (400, 500):  # its engine cannot render the template
        raise BaseMismatchError(told, advice=_ADVICE)
    raise ProbeFailedError(told)


def _first_token(expected: tuple[int, ...], found: list[int]) -> str | None:
    """Where tokens differ first, in words."""
    for i in range(max(len(expected), len(found))):
        a, b = expected[i : i + 1], found[i : i + 1]
        if list(a) != b:
            return f"token {i}: expected {_or_end(a)}, found {_or_end(b)}"
    return None


def _or_end(ids: tuple[int, ...] | list[int]) -> str:
    return str(ids[0]) if ids else "the end"


def _first_letters(expected: str, found: str) -> str:
    """Where texts differ first, in words."""
    same = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    a, b = expected[same : same + _AROUND], found[same : same + _AROUND]
    return f"character {same}: expected {a or 'the end'!r}, found {b or 'the end'!r}"
