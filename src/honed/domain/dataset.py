"""What a training set was made by and what is in it: its part of a run's and of an adapter's manifest.

Equal episodes, rules and seed give equal files, and so equal digests.
"""

from typing import Final, Literal

from msgspec import Struct

from honed.domain.trained_model import Method, Selection

Shape = Literal["sft", "preference", "labelled"]
"""What a row is: a conversation to imitate, two answers to one prompt, or one answer marked good or bad."""

SHAPE_OF: Final[dict[Method, Shape]] = {"sft": "sft", "dpo": "preference", "kto": "labelled"}
"""What the rows of a method are."""
METHOD_OF: Final[dict[Shape, Method]] = {shape: method for method, shape in SHAPE_OF.items()}


class DataRules(Struct, frozen=True, kw_only=True):
    """Every rule that decides what is in a training file."""

    scenario: str
    learn_model: str
    shape: Shape
    selection: Selection
    seed: int
    """Of the draws and of the order of the rows."""
    max_episodes: int
    held_out_fraction: float
    unlabelled: str
    judged: str = "train"
    min_score: float
    min_rows: int
    min_chars: int
    max_chars: int | None
    max_turns: int | None
    near_duplicates: str
    similarity: float
    replay: float
    skill_tag: str
    max_skill_share: float
    max_age_share: float
    min_quality_gap: float | None = None
    """Of pairs alone, as the two that follow."""
    max_pairs: int | None = None
    allow_reuse: bool | None = None


class Dataset(Struct, frozen=True, kw_only=True):
    """The files of a training set, the rules behind them, and the counts."""

    rules: DataRules
    digest: str
    """SHA-256 of the training file."""
    num_rows: int
    held_out_digest: str
    """SHA-256 of the held-out file."""
    num_held_out: int
    num_episodes: int
    """Episodes that were looked at."""
    num_new: int
    """Of those: no training had seen them."""
    num_changed: int
    """Of those: their outcome had changed since a training saw them."""
    left_out: dict[str, int]
    """Reason to number: of episodes up to their conversion, of rows behind it."""
    rows_new: int
    """Rows of new and changed episodes; the others are replayed."""
    rows_by_skill: dict[str, int]
    rows_by_age: dict[str, int]
    """By the age of their attempts, against the youngest of them."""
    num_near_duplicates: int | None = None
    """Rows that say nearly what another one says, marked or left out; None when nobody looked."""
