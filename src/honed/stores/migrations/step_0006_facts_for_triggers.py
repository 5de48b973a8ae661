"""Version 6: what triggers ask about runs and changed episodes is in counters, or a step in an index away."""

from typing import Final

STATEMENTS: Final = (
    "ALTER TABLE learning_states ADD COLUMN changed_count INTEGER DEFAULT '0' NOT NULL",
    "ALTER TABLE learning_states ADD COLUMN last_run_at_ms INTEGER",
    "ALTER TABLE learning_states ADD COLUMN failures INTEGER DEFAULT '0' NOT NULL",
    "UPDATE learning_states SET last_run_at_ms = last_train_at_ms",
    """
    UPDATE learning_states SET changed_count = (
      SELECT count(*) FROM changed_episodes AS c
      WHERE c.scenario = learning_states.scenario AND c.learn_model = learning_states.learn_model
        AND c.counted = 1
    )
    """,
    "ALTER TABLE changed_episodes ADD COLUMN number INTEGER DEFAULT '0' NOT NULL",
    """
    UPDATE changed_episodes SET number = COALESCE(
      (SELECT e.number FROM episodes AS e WHERE e.id = changed_episodes.episode_id), 0
    )
    """,
    """
    CREATE INDEX changed_newest ON changed_episodes (scenario, learn_model, number)
      WHERE counted = 1
    """,
    "ALTER TABLE runs ADD COLUMN learn_model TEXT",
    "ALTER TABLE runs ADD COLUMN state TEXT",
    "ALTER TABLE runs ADD COLUMN ended_at_ms INTEGER",
    """
    UPDATE runs SET learn_model = json_extract(body, '$.learn_model'),
      state = json_extract(body, '$.state'),
      ended_at_ms = CAST(json_extract(body, '$.ended_at_ms') AS INTEGER)
    """,
    """
    CREATE INDEX runs_trained ON runs (scenario, learn_model, started_at_ms, ended_at_ms)
      WHERE state <> 'skipped'
    """,
)
