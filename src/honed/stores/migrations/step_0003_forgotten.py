"""Version 3: what was forgotten is known when it is sent again; ids of removed records are not given twice."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE forgotten (
      digest BLOB NOT NULL,
      PRIMARY KEY (digest)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE removed (
      id INTEGER NOT NULL,
      newest_record_id INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "INSERT INTO removed VALUES (1, 0)",
)
