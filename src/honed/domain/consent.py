"""Who must not be learned from, and whose content is not trusted, by the operator's rules.

A rule is text: `user=guest-*`. It names a field of an event's envelope (or `tag.NAME`) and a pattern
with `*`, `?` and `[...]`, which must fit the whole value; upper and lower case differ.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from honed.errors import ValidationError

FIELDS: Final = ("scenario", "agent", "role", "user", "task", "group", "session")
_ATTRIBUTES: Final = {"task": "task_id", "group": "group_id", "session": "session_id"}
_RULE: Final = re.compile(r"(?P<field>[a-z]+|tag\.[^=]+)=(?P<pattern>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `str(rule)` is its text."""

    field: str
    pattern: str

    def fits(self, event: Any) -> bool:
        """Whether the event is one of those that the rule speaks of."""
        if self.field.startswith("tag."):
            value = event.tags.get(self.field.removeprefix("tag."))
        else:
            value = getattr(event, _ATTRIBUTES.get(self.field, self.field))
        return value is not None and fnmatch.fnmatchcase(value, self.pattern)

    def __str__(self) -> str:
        return f"{self.field}={self.pattern}"


def parse_rule(text: str) -> Rule:
    """Read a rule; raises ValidationError."""
    match = _RULE.fullmatch(text)
    if match is None or not (match["field"] in FIELDS or match["field"].startswith("tag.")):
        known = ", ".join(FIELDS)
        raise ValidationError(
            f"{text!r} is no rule: expected FIELD=PATTERN, FIELD one of {known}, tag.NAME"
        )
    return Rule(match["field"], match["pattern"])


@dataclass(frozen=True, slots=True)
class Consent:
    """The operator's rules over the events of a daemon."""

    exclude: tuple[Rule, ...] = ()
    """What fits one of them is never learned from."""
    untrusted: tuple[Rule, ...] = ()
    """What fits one of them is context, never a target of learning."""
    drops: bool = False
    """Whether excluded events are not even stored."""

    def changes(self, event: Any) -> dict[str, Any]:
        """The fields of an event that must be other than its sender set them; empty for most."""
        changed: dict[str, Any] = {}
        if event.train and _any_fits(self.exclude, event):
            changed["train"] = False
        if event.trust == "trusted" and _any_fits(self.untrusted, event):
            changed["trust"] = "untrusted"
        return changed

    def __bool__(self) -> bool:
        return bool(self.exclude or self.untrusted)


def _any_fits(rules: Iterable[Rule], event: Any) -> bool:
    return any(rule.fits(event) for rule in rules)
