"""Version 5: which episodes stand otherwise than the last training saw them."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE changed_episodes (
      scenario TEXT NOT NULL,
      learn_model TEXT NOT NULL,
      episode_id TEXT NOT NULL,
      outcome_type TEXT NOT NULL,
      score FLOAT NOT NULL,
      demonstration INTEGER,
      counted INTEGER NOT NULL,
      PRIMARY KEY (scenario, learn_model, episode_id)
    ) WITHOUT ROWID
    """,
)
