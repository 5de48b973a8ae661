"""The receipt in a stream: the last events of an answer say by which receipt an outcome may name it,
and which version gave it, in a field of their own:

    data: {"choices":[{"finish_reason":"stop", ...}], ..., "honed":{"receipt":"...","model":"airline@3"}}

An extra field, because clients show it (`chunk.model_extra["honed"]`) where they swallow a comment;
llama-server's own `timings` come the same way. The event that ends the answer has it, and every one
after it, so that it is also in the very last, whichever the caller asked for.
"""

import re
from typing import Final

import msgspec

_ENDS: Final = {
    "chat/completions": rb'"finish_reason"\s*:\s*"',
    "completions": rb'"finish_reason"\s*:\s*"',
    "messages": rb'"type"\s*:\s*"message_(?:delta|stop)"',
    "responses": rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"',
}
"""What an event has that ends the answer. Inside a JSON text it cannot stand: quotes there have a
backslash before them.
"""
_PATTERNS: Final = {path: re.compile(pattern) for path, pattern in _ENDS.items()}
_DATA: Final = b"data:"
_KEPT: Final = 64
"""Bytes of a line that are looked at again with the next chunk; more than a mark is long."""


class Stamp:
    """Writes the receipt into one streamed answer, as its chunks pass.

    Pure; holds no event back, and of a line that is not whole no more than its last brace. Chunks may
    be cut anywhere. What is no stream of a known endpoint passes as it is.

    Args:
        endpoint: the request's path, with or without `/v1`.
        receipt_id: the call's.
        model: what `x-honed-model` says.
    """

    __slots__ = ("_field", "_has_ended", "_held", "_is_data", "_line", "_pattern")

    def __init__(self, endpoint: str, receipt_id: str, model: str) -> None:
        self._pattern = _PATTERNS.get(endpoint.strip("/").removeprefix("v1/"))
        told = msgspec.json.encode({"receipt": receipt_id, "model": model})
        self._field = b',"honed":' + told + b"}"
        self._line = b""
        """The end of what has come of a line that is not whole, as it came."""
        self._held = b""
        """What was not passed on yet: a brace that may be the line's last, and blanks behind it."""
        self._is_data: bool | None = None
        """Whether the line that is not whole is an event's data; None while nobody knows."""
        self._has_ended = False
        """Whether the event that ends the answer has come, or is the one that is passing."""

    def feed(self, chunk: bytes, is_last: bool) -> bytes:
        """The chunk as it goes on to the client."""
        if self._pattern is None:
            return chunk
        is_whole = not self._line and chunk.endswith(b"\n")
        if is_whole and not self._has_ended and not self._pattern.search(chunk):
            return chunk  # most are whole events in the middle of an answer
        passed = [self._pass(line) for line in chunk.splitlines(keepends=True)]
        if is_last:
            passed.append(self._held)
            self._held = b""
        return b"".join(passed)

    def _pass(self, part: bytes) -> bytes:
        """A line, or a part of one."""
        seen = self._line + part
        if self._is_data is None and not (len(seen) < len(_DATA) and _DATA.startswith(seen)):
            self._is_data = seen.startswith(_DATA)
        if self._is_data and not self._has_ended:
            assert self._pattern is not None
            self._has_ended = self._pattern.search(seen) is not None
        if not part.endswith(b"\n"):
            self._line = seen[-_KEPT:]
            return self._hold(part) if self._is_data else part
        is_data, self._is_data, self._line = self._is_data, None, b""
        whole, self._held = self._held + part, b""
        return self._stamped(whole) if is_data and self._has_ended else whole

    def _hold(self, part: bytes) -> bytes:
        """Keep the brace back that may be the line's last."""
        whole = self._held + part
        text = whole.rstrip()
        may_end = text.endswith(b"}") and len(whole) - len(text) < _KEPT
        end = len(text) - 1 if may_end else len(whole)
        self._held = whole[end:]
        return whole[:end]

    def _stamped(self, end_of_line: bytes) -> bytes:
        text = end_of_line.rstrip()
        if not text.endswith(b"}") or text.endswith(b"{}"):  # [DONE], or nothing is told
            return end_of_line
        return text[:-1] + self._field + end_of_line[len(text) :]
