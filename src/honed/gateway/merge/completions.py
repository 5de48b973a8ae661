"""`/v1/completions`: a text, and how it goes on. No conversation was had; the event has `prompt` and
`response`.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from honed.domain.message import Message
from honed.gateway.merge.said import Answered, Asked, UnreadableError, as_id, decode, events
from honed.gateway.merge.tokens import Logprobs, TokenTape


class _Body(Struct):
    prompt: str | list[Any]
    model: str | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Choice(Struct):
    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    id: Any = None


_body_decoder: Final = msgspec.json.Decoder(_Body)
_chunk_decoder: Final = msgspec.json.Decoder(_Chunk)


def read_call(request: bytes, answer: bytes, *, is_stream: bool) -> tuple[Asked, Answered]:
    """What was asked and answered; raises UnreadableError, also for a prompt of tokens."""
    body = decode(_body_decoder, request, "request")
    if not isinstance(body.prompt, str):
        raise UnreadableError("request: the prompt is not one text")
    return Asked(prompt=body.prompt, model=body.model), _read(answer, is_stream=is_stream)


def _read(body: bytes, *, is_stream: bool) -> Answered:
    text: list[str] = []
    tokens = TokenTape()
    finish_reason: str | None = None
    usage: _Usage | None = None
    answer_id: Any = None
    for data in events(body) if is_stream else (body,):
        chunk = decode(_chunk_decoder, data, "answer")
        usage, answer_id = chunk.usage or usage, answer_id or chunk.id
        for choice in chunk.choices:
            if choice.index == 0:
                text.append(choice.text)
                tokens.add(choice.logprobs)
                finish_reason = choice.finish_reason or finish_reason
    if finish_reason is None:
        raise UnreadableError("answer: no finish_reason")
    usage = usage or _Usage()
    is_end_missing = is_stream and finish_reason != "length"
    token_ids, logprobs = tokens.whole(usage.completion_tokens, is_end_missing=is_end_missing)
    return Answered(
        message=Message(role="assistant", content="".join(text)),
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        id=as_id(answer_id),
        token_ids=token_ids,
        logprobs=logprobs,
    )
