"""Version 12: the attempts of a group are walked in order; an attempt without a group costs no entry."""

from typing import Final

STATEMENTS: Final = (
    "DROP INDEX episodes_group",
    "CREATE INDEX episodes_group ON episodes (group_id, id) WHERE group_id IS NOT NULL",
)
