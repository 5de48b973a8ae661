"""Version 10: the episodes of one scenario and learn model are walked in the order of their ids."""

from typing import Final

STATEMENTS: Final = ("CREATE INDEX episodes_in_order ON episodes (scenario, learn_model, id)",)
