"""Patterns that the operator wrote: a name and an expression in RE2's syntax, checked when they are read."""

import re
from typing import Final

import re2

from honed.errors import ConfigError
from honed.redaction.pattern import Pattern, options
from honed.redaction.table import KINDS

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,23}")
_EVERYWHERE: Final = ("action", "llm_call", "outcome", "work", "user", "assistant", "chat")
"""Words that events are made of: a pattern that takes them out makes every event unreadable."""
_SYNTAX: Final = "patterns are RE2's: no look-around, no back-references"


def own_pattern(name: str, expression: str, *, contains: str | None = None) -> Pattern:
    """One pattern of the config.

    Without `contains` every event is decoded to look for it (about as dear as all other patterns
    together); with it, only those in which that text stands, and only matches that hold it count.

    Args:
        name: the kind, for placeholders and counts: lower case, digits and `_`, at most 24 characters.
        expression: what is replaced is its group if it has one, else the whole match.
        contains: a text that every match has in it, as it is written, for example `EMP-`.

    Raises:
        ConfigError: the pattern cannot be used; the message says why.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"redaction pattern {name!r}: expected a name of lower-case letters, digits and _, at most 24"
        )
    if name in KINDS:
        raise ConfigError(
            f"redaction pattern {name}: {name} is a kind of its own; choose another name"
        )
    _check_expression(name, expression)
    if contains is not None:
        _check_contains(name, contains)
        literal = contains.encode()
        return Pattern(
            kind=name,
            tight=expression,
            wide=re2.escape(contains),
            check=lambda text, start, end: end if literal in text[start:end] else None,
        )
    return Pattern(kind=name, tight=expression, wide=None)


def _check_expression(name: str, expression: str) -> None:
    try:
        compiled = re2.compile(expression, options())
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise ConfigError(
            f"redaction pattern {name}: {expression!r} does not compile: {reason}", advice=_SYNTAX
        ) from None
    if compiled.groups > 1:
        raise ConfigError(
            f"redaction pattern {name}: found {compiled.groups} groups, expected one at most",
            advice="write (?:...) for a group that is not what is replaced",
        )
    if compiled.search("") is not None:
        raise ConfigError(f"redaction pattern {name}: {expression!r} matches the empty string")
    for word in _EVERYWHERE:
        if compiled.search(word) is not None:
            raise ConfigError(
                f"redaction pattern {name}: {expression!r} matches {word!r}, of which events are made"
            )


def _check_contains(name: str, contains: str) -> None:
    if len(contains) < 2 or not re.fullmatch(r'[^\x00-\x1f"\\/\x7f-\U0010ffff]+', contains):
        raise ConfigError(
            f"redaction pattern {name}: contains = {contains!r}: expected two or more printable ASCII"
            ' characters that JSON never escapes (no ", no \\, no /)'
        )
