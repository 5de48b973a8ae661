"""What a client of each API sends, and what it makes of the answer: a whole one, an error, or neither."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec


class Read(NamedTuple):
    """An answer as its client reads it."""

    text: str
    """What the model said, as far as it came."""
    is_whole: bool
    error: Mapping[str, Any] | None
    """The body, or the event, that says why it is not."""


class Dialect(NamedTuple):
    """One of the APIs that are captured."""

    path: str
    ask: Callable[[str, int], dict[str, Any]]
    """A request with this prompt, for so many tokens."""
    said: Callable[[Any], str]
    """The text of an answer that is not streamed."""
    told: Callable[[Any], str]
    """The text of one event of a stream."""
    is_last: Callable[[Any], bool]
    """Whether an event says that the answer is over."""
    is_error: Callable[[Any], bool]
    """Whether a body, or an event, is an error as this API has it."""

    def read(self, body: bytes, *, is_stream: bool) -> Read:
        """Read the body of an answer with status 200, or the beginning of one."""
        if is_stream:
            return self._read_events(body)
        try:
            return Read(self.said(msgspec.json.decode(body)), True, None)
        except (msgspec.DecodeError, KeyError, IndexError):
            return Read("", False, None)

    def _read_events(self, body: bytes) -> Read:
        text, is_whole, error = "", False, None
        for event in _events(body):
            assert not is_whole, "nothing comes after the end"
            if "error" in event or event.get("type") == "error":
                error = event
            else:
                text += self.told(event)
                is_whole = self.is_last(event)
        return Read(text, is_whole and error is None, error)


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """The data of each whole event; that of OpenAI's last one is `{"type": "[DONE]"}`."""
    for event in body.split(b"\n\n")[:-1]:
        for line in event.split(b"\n"):
            if line == b"data: [DONE]":
                yield {"type": "[DONE]"}
            elif line.startswith(b"data: "):
                yield msgspec.json.decode(line.removeprefix(b"data: "))


def _of_openai(error: Any) -> bool:
    found = error["error"]
    return bool((found["type"], found["code"]) == ("server_error", "upstream_gone"))


def _delta_of_chat(event: Any) -> str:
    return "".join(each["delta"].get("content") or "" for each in event.get("choices", ()))


def _delta_of_messages(event: Any) -> str:
    return str(event["delta"]["text"]) if event["type"] == "content_block_delta" else ""


def _turn(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


CHAT: Final = Dialect(
    "/v1/chat/completions",
    lambda prompt, num: {"messages": _turn(prompt), "max_tokens": num},
    lambda body: str(body["choices"][0]["message"]["content"]),
    _delta_of_chat,
    lambda event: event.get("type") == "[DONE]",
    _of_openai,
)
MESSAGES: Final = Dialect(
    "/v1/messages",
    lambda prompt, num: {"messages": _turn(prompt), "max_tokens": num},
    lambda body: "".join(part["text"] for part in body["content"]),
    _delta_of_messages,
    lambda event: event["type"] == "message_stop",
    lambda error: error["error"]["type"] == "overloaded_error",
)
RESPONSES: Final = Dialect(
    "/v1/responses",
    lambda prompt, num: {"input": _turn(prompt), "max_output_tokens": num},
    lambda body: "".join(part["text"] for each in body["output"] for part in each["content"]),
    lambda event: event["delta"] if event["type"] == "response.output_text.delta" else "",
    lambda event: event["type"] == "response.completed",
    _of_openai,
)
DIALECTS: Final = (CHAT, MESSAGES, RESPONSES)
