"""Version 4: the episodes of a group of attempts are found at once."""

from typing import Final

STATEMENTS: Final = ("CREATE INDEX episodes_group ON episodes (group_id)",)
