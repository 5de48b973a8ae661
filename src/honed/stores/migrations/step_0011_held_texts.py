"""Version 11: what is remembered for ever of the texts that were held out."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE held_texts (
      id INTEGER NOT NULL,
      digest BLOB NOT NULL,
      parts BLOB NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX held_texts_digest ON held_texts (digest)",
    """
    CREATE TABLE held_bands (
      band INTEGER NOT NULL,
      text_id INTEGER NOT NULL,
      PRIMARY KEY (band, text_id)
    ) WITHOUT ROWID
    """,
)
