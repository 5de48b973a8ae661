"""The section `redact`: what is taken out of events before anything is written."""

import hashlib
from typing import TYPE_CHECKING, Final, Self

from pydantic import Field, model_validator

from honed.config.sections import Section
from honed.errors import ConfigError

if TYPE_CHECKING:
    from honed.redaction import Redaction, Redactor

# What looks for the patterns is imported where it is needed: the gateway and most commands read this
# section and never look for anything (measured: 10 ms and 4 MiB).

_DEFAULT: Final = "default"
_PURPOSE: Final = b"honed.redact.key"


class OwnPattern(Section):
    """A pattern of the operator's own."""

    name: str
    """Its kind, for placeholders and counts: lower case, digits and `_`."""
    expression: str
    """In RE2's syntax; its group is replaced if it has one, else the whole match."""
    contains: str | None = None
    """A text that every match holds, as it is written; without it every event is decoded to look."""


class RedactSection(Section):
    """Secrets and personal data go out of an event before it is written anywhere (docs/redaction.md)."""

    enabled: bool = True
    """Off, events are stored as they were sent, passwords and addresses included."""
    kinds: tuple[str, ...] = (_DEFAULT,)
    """What is looked for. `default` is every kind but `ip`; a name adds a kind, a name with `-` before it leaves one
    out: `["default", "ip", "-phone"]`."""
    own: tuple[OwnPattern, ...] = Field(
        (),
        examples=[[{"name": "employee", "expression": "EMP-[0-9]{6}", "contains": "EMP-"}]],
    )
    """Further patterns, tables of `name`, `expression` (RE2) and, so that it costs little, `contains`."""

    @model_validator(mode="after")
    def _can_be_looked_for(self) -> Self:
        if self.kinds != (_DEFAULT,) or self.own:
            try:
                self._build(b"any")
            except ConfigError as error:
                advice = f" ({error.advice})" if error.advice else ""
                raise ValueError(f"{error}{advice}") from None
        return self

    def chosen_kinds(self) -> tuple[str, ...]:
        """The kinds that are looked for by name, own patterns included; empty when nothing is."""
        return (*self._kinds(), *(pattern.name for pattern in self.own)) if self.enabled else ()

    def redaction(self, secret: bytes) -> "Redaction":
        """What a data folder does of it, with a key of its own made from the folder's `secret`."""
        from honed.redaction import KINDS, Redaction

        key = _derived(secret)
        chosen = self._build(key)
        return Redaction(chosen if self.enabled else None, (chosen, self._build(key, kinds=KINDS)))

    def _build(self, key: bytes, kinds: tuple[str, ...] | None = None) -> "Redactor":
        from honed.redaction import Redactor, own_pattern

        own = [own_pattern(p.name, p.expression, contains=p.contains) for p in self.own]
        return Redactor(kinds=self._kinds() if kinds is None else kinds, own=own, secret=key)

    def _kinds(self) -> tuple[str, ...]:
        from honed.redaction import DEFAULT_KINDS

        chosen: dict[str, None] = {}
        for word in self.kinds:
            names = DEFAULT_KINDS if word == _DEFAULT else (word,)
            if not word.startswith("-"):
                chosen |= dict.fromkeys(names)
            elif (left_out := word.removeprefix("-")) in chosen:
                del chosen[left_out]
            else:
                raise ConfigError(
                    f"redact.kinds: {word!r} leaves out what is not there",
                    advice='put "default" before it, and see docs/redaction.md for the names',
                )
        return tuple(chosen)


def _derived(secret: bytes) -> bytes:
    """A key for this purpose alone: what is hashed elsewhere under the same secret tells nothing here."""
    return hashlib.blake2b(key=secret, person=_PURPOSE, digest_size=32).digest()
