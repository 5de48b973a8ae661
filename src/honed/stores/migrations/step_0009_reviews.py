"""Version 9: what people remarked on episodes, and the runs that wait for them."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE remarks (
      id INTEGER NOT NULL,
      episode_id TEXT NOT NULL,
      kind TEXT NOT NULL,
      note TEXT,
      label TEXT,
      said_by TEXT NOT NULL,
      at_ms INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX remarks_episode ON remarks (episode_id, id)",
    """
    CREATE TABLE reviews (
      scenario TEXT NOT NULL,
      learn_model TEXT NOT NULL,
      body TEXT NOT NULL,
      PRIMARY KEY (scenario, learn_model)
    )
    """,
)
