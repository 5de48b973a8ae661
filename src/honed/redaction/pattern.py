r"""What a pattern is, and the two forms in which it is written.

The **tight** form runs over decoded strings and says what is replaced: its last group, else the whole
match. The **wide** form runs over the raw JSON line and only says "look closer". The law, a property test
for every pattern: where the tight form finds something in a decoded string, the wide form matches the
line, and the string itself. So a wide form

- has no boundary on the left that an escape could spoil: in `\nghp_...` the `n` is a word character;
- takes, wherever white space, a quote or a backslash is allowed, the letters of their escapes too;
- may ignore `\u` and `\/`: a line with one of these is always looked at.

It is written by hand: deriving it from the tight form by text replacement went wrong inside character
classes. It may match too much, which costs time and nothing else.
"""

from collections.abc import Callable
from typing import Literal

import re2
from msgspec import Struct

Class = Literal["SECRET", "PERSONAL"]

Check = Callable[[bytes, int, int], int | None]
"""(text, start, end) of what the tight form found: where it really ends, or None if it is none."""

ESCAPE = (
    r"(?:\\[nrtbf]|\\u[0-9A-Fa-f]{4}"  # JSON inside a JSON string keeps its own escapes
    r"|%[0-9A-Fa-f]{2}"  # a URL's
    r"|(?:\x1b|\\u001[Bb]|\\x1[Bb]|\\033|\\e)\[[0-9;]{0,12}m)"  # a terminal's colours, as they are or written out
)
"""What ends in a letter or digit without being a part of a word."""
BEFORE = rf"(?:\b|{ESCAPE})"
"""What may stand before a token in a decoded string."""


class Pattern(Struct, frozen=True, kw_only=True):
    """One thing to look for."""

    kind: str
    """Names it in placeholders and counts; several patterns may share a kind."""
    tight: str
    """RE2 syntax, over a decoded string; at least one character long."""
    wide: str | None
    """RE2 syntax, over the raw line; None has every line decoded."""
    check: Check | None = None
    """Has the last word on a match."""
    is_field: bool = False
    """`tight` fits a key, and it is that key's whole value which is replaced."""
    rescans: bool = False
    """Whether a match that the check refused is searched again from its second character; only where matches
    are short, or hostile text makes the search quadratic."""
    group: Class = "SECRET"
    examples: tuple[str, ...] = ()
    """Texts in which it is found; `[a:36]` stands for 36 random letters and digits (tests fill them in), so that
    no scanner of repositories takes an example for a leak."""


def token(
    kind: str, core: str, *examples: str, wide: str | None = None, check: Check | None = None
) -> Pattern:
    r"""A pattern for a self-evident token, made of characters that JSON never escapes but by `\u`.

    Args:
        kind: as in `Pattern`.
        core: the token, without what surrounds it.
        examples: as in `Pattern`.
        wide: needed where `core` starts with a long run, which would make the first look slow.
        check: as in `Pattern`.
    """
    return Pattern(
        kind=kind,
        tight=f"{BEFORE}({core})",
        wide=wide or core.removesuffix(r"\b"),
        check=check,
        examples=examples,
    )


def options(max_mem: int = 1 << 20) -> re2.Options:
    """How patterns are compiled: quietly, and with a bound on what matching may keep in memory.

    RE2 builds its automaton while it reads and starts afresh when it reaches the bound, so hostile
    text makes it slower, never larger.
    """
    chosen = re2.Options()
    chosen.log_errors = False
    chosen.max_mem = max_mem
    return chosen
