"""The tokens of an answer, where the caller has asked for its `logprobs`.

llama-server tells id and log-probability of each token, but leaves some out: those in the middle of a
character, those of a word that ended the answer, those of streamed tool calls, and in a stream the token
that ends the turn. With holes they would be another answer's, so they are kept whole or not at all.
"""

from typing import Final

from msgspec import Struct

TOKENS_MAX: Final = 16_384
"""Of a longer answer none are kept: they would fill the event's line."""
_DIGITS: Final = 6


class _Token(Struct):
    logprob: float | None = None
    id: int | None = None


class Logprobs(Struct):
    """`logprobs` of a choice."""

    content: list[_Token] | None = None


class TokenTape:
    """Collects the tokens of one answer."""

    def __init__(self) -> None:
        self._tokens: list[_Token] = []

    def add(self, logprobs: Logprobs | None) -> None:
        """Take in what a choice or a piece of it says."""
        if logprobs is not None and logprobs.content:
            self._tokens += logprobs.content

    def whole(
        self, num_sampled: int | None, *, is_end_missing: bool
    ) -> tuple[tuple[int, ...] | None, tuple[float, ...] | None]:
        """Ids and log-probabilities, or None for both unless they are all that was sampled.

        `is_end_missing`: the token that ended the turn is counted, but not told.
        """
        num = len(self._tokens)
        if num_sampled is None or not 0 < num <= TOKENS_MAX:
            return None, None
        if num != num_sampled - is_end_missing:
            return None, None
        ids = tuple(each.id for each in self._tokens if each.id is not None)
        probabilities = tuple(
            round(each.logprob, _DIGITS) for each in self._tokens if each.logprob is not None
        )
        return (
            ids if len(ids) == num else None,
            probabilities if len(probabilities) == num else None,
        )
