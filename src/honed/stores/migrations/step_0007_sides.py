"""Version 7: on which side of the held-out split a name stands, once a training has used it."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE sides (
      digest BLOB NOT NULL,
      held_out INTEGER NOT NULL,
      PRIMARY KEY (digest)
    ) WITHOUT ROWID
    """,
)
