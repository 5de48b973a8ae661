"""What one data folder takes out of events, and what ids that somebody asks by are stored as there."""

from collections.abc import Sequence

from honed.redaction.redactor import Redactor


class Redaction:
    """A redactor, or none, and the forms under which an id from outside may be stored.

    What is looked for may have changed since something was stored, so its ids may be there turned by today's
    kinds, turned by others, or as they are.

    Args:
        redactor: takes out what is looked for today; None when nothing is.
        others: take out what may have been looked for.
    """

    def __init__(self, redactor: Redactor | None = None, others: Sequence[Redactor] = ()) -> None:
        self.redactor = redactor
        self._others = tuple(others)

    def forms(self, value: str) -> tuple[str, ...]:
        """Under which ids something may be stored that is asked for by this one, today's first.

        Nearly always the id alone.
        """
        try:
            value.encode()
        except UnicodeEncodeError:  # half a surrogate pair: no event could name it
            return (value,)
        today = value if self.redactor is None else self.redactor.redacted_id(value)
        turned = [redactor.redacted_id(value) for redactor in self._others]
        return tuple(dict.fromkeys((today, *turned, value)))
