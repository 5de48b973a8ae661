"""The beginning of a stream that llama-server leaves out: it holds back a first token that is half a
character (an emoji often begins with one), and with it the event that opens the answer.

OpenAI's clients do without. Anthropic's take no answer that was not opened, so it is opened here.
"""

from typing import Any, Final

import msgspec

PATH: Final = "/v1/messages"
"""Whose streams are opened."""
_UNOPENED: Final = (b"event: content_block_start\n", b"event: message_delta\n")
"""What begins a stream that `message_start` should have begun."""


def opened(first: bytes, *, answer_id: str, model: str) -> bytes:
    """The first chunk of a stream, with what opens it; as it is where that is there.

    Args:
        first: the chunk.
        answer_id: what the answer may be called; its own name was in the event that is missing.
        model: what `x-honed-model` says.
    """
    if not first.startswith(_UNOPENED):
        return first
    message: dict[str, Any] = {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    event = msgspec.json.encode({"type": "message_start", "message": message})
    return b"event: message_start\ndata: " + event + b"\n\n" + first
