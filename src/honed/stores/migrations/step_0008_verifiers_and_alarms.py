"""Version 8: how far verifiers and judges have come, and what alarms compare of an episode."""

from typing import Final

STATEMENTS: Final = (
    "ALTER TABLE episodes ADD COLUMN num_tool_calls INTEGER",
    "ALTER TABLE episodes ADD COLUMN answer_chars INTEGER",
    """
    CREATE TABLE asked (
      scenario TEXT NOT NULL,
      learn_model TEXT NOT NULL,
      source TEXT NOT NULL,
      episode_id TEXT NOT NULL,
      PRIMARY KEY (scenario, learn_model, source)
    ) WITHOUT ROWID
    """,
)
