"""What several commands say alike: numbers, outcomes, who gave a verdict, which learn model."""

import shlex

from honed.domain.outcome import Outcome, Unknown, score
from honed.domain.verdict import UNSIGNED


def plain(number: float) -> str:
    """A number of 0 or more in at most three digits behind the point, and never with an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    if number >= 1:
        return f"{number:.1f}".removesuffix(".0")
    return "less than 0.001" if 0 < number < 0.001 else f"{number:.3f}".rstrip("0").rstrip(".")


def worth(outcome: Outcome) -> str:
    """How an attempt ended, with its score where there is one: nobody has said one of an unknown outcome."""
    name = type(outcome).__name__.lower()
    return name if isinstance(outcome, Unknown) else f"{name} {score(outcome):.2f}"


def said_by(source: str | None, version: str | None = None, *, learn_model: str | None) -> str:
    """Who gave a verdict: a name with its version, or that nobody signed it.

    Args:
        source: who said so; the learn model's name stands for the attempt itself.
        version: of the source.
        learn_model: that of the episode.
    """
    if source is None or source == learn_model:
        return UNSIGNED
    return f"{source} {version}" if version else source


def naming(learn_model: str) -> str:
    """The option that names a learn model, as it is typed in a shell, with the space before it."""
    return f" --learn-model {shlex.quote(learn_model)}"
