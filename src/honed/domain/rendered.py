"""A conversation as its rows are trained on: text, what of it counts, and why the rest does not."""

from typing import Literal

from msgspec import Struct

State = Literal["prompt", "kept", "dropped"]


class Segment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run of text with one fate."""

    text: str
    num_tokens: int
    state: State
    """`kept` counts in the loss, `dropped` are the assistant's tokens that do not, `prompt` is all else."""
    turn: int | None = None
    """Index of the assistant's turn."""
    reason: str | None = None
    """Why it does not count; None for what does."""


class RenderedRow(Struct, frozen=True, kw_only=True):
    """One text; the segments put together are the text to the letter."""

    segments: tuple[Segment, ...]
    is_trained: bool
    """False when nothing of it counts, so that it is left out of training."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole text."""
        return sum(segment.num_tokens for segment in self.segments)


class Drop(Struct, frozen=True, kw_only=True):
    """What is not learned for one reason."""

    reason: str
    turns: tuple[int, ...]
    num_tokens: int
    is_eligible: bool
    """Whether these tokens should have been learned; they lower the share that is."""
    advice: str | None = None


class RenderedExample(Struct, frozen=True, kw_only=True):
    """All rows of one conversation. A template that shows past turns otherwise than present ones gives several."""

    rows: tuple[RenderedRow, ...]
    num_kept: int
    """Tokens that count in the loss."""
    drops: tuple[Drop, ...]
    """Every token of the rows that does not count, and every turn that is in no row, by reason."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_eligible(self) -> int:
        """The assistant's tokens that should be learned, kept or not."""
        return self.num_kept + sum(drop.num_tokens for drop in self.drops if drop.is_eligible)
