"""From what went over the wire to what was said: a request and its answer, streamed or not, as one
call in OpenAI's form, whichever of llama-server's protocols it was told in. Pure.
"""

from typing import Final

from honed.gateway.merge import chat, completions, messages, responses
from honed.gateway.merge.said import Answered, Asked, ReadCall, UnreadableError

__all__ = ["Answered", "Asked", "UnreadableError", "is_kept", "read_call"]

_PROTOCOLS: Final[dict[str, ReadCall]] = {
    "/v1/chat/completions": chat.read_call,
    "/chat/completions": chat.read_call,
    "/v1/completions": completions.read_call,
    "/v1/responses": responses.read_call,
    "/responses": responses.read_call,
    "/v1/messages": messages.read_call,
}


def is_kept(path: str) -> bool:
    """Whether what is posted there is a call of the model that becomes an event."""
    return path in _PROTOCOLS


def read_call(
    path: str, request: bytes, answer: bytes, *, is_stream: bool
) -> tuple[Asked, Answered]:
    """What was asked and answered there.

    Raises:
        UnreadableError: it is no finished call that can be told as an event.
    """
    return _PROTOCOLS[path](request, answer, is_stream=is_stream)
