"""Version 2: how far followed files have been read."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE file_positions (
      path TEXT NOT NULL,
      inode INTEGER NOT NULL,
      position INTEGER NOT NULL,
      head BLOB NOT NULL,
      PRIMARY KEY (path)
    ) WITHOUT ROWID
    """,
)
