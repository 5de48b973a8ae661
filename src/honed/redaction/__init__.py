"""Redaction: secrets and personal data go out of an event before it is written anywhere.

`redactor` looks at a line and returns it with placeholders; `pattern` says what a pattern is;
`vendor_keys`, `credentials` and `personal` are the table; `checks` has the last word on a match; `own` reads the
operator's patterns; `strings` finds the strings of a JSON line; `redaction` is what one data
folder does of it. Values and functions, no I/O.
"""

from honed.redaction.own import own_pattern
from honed.redaction.pattern import Pattern
from honed.redaction.redaction import Redaction
from honed.redaction.redactor import Redacted, Redactor
from honed.redaction.table import DEFAULT_KINDS, KINDS, PATTERNS

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "PATTERNS",
    "Pattern",
    "Redacted",
    "Redaction",
    "Redactor",
    "own_pattern",
]
