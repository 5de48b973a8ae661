"""Version 13: versions that were tried beside the one in service."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE canaries (
      scenario TEXT NOT NULL,
      started_at_ms INTEGER NOT NULL,
      state TEXT NOT NULL,
      body TEXT NOT NULL,
      PRIMARY KEY (scenario, started_at_ms)
    ) WITHOUT ROWID
    """,
)
