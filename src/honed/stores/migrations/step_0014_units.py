"""Version 14: what one version has answered as a whole, by which canaries compare."""

from typing import Final

STATEMENTS: Final = ("ALTER TABLE episodes ADD COLUMN unit TEXT",)
