"""Version 1: records, groups, episodes, outcomes, counters, runs, models, what was applied."""

from typing import Final

STATEMENTS: Final = (
    """
    CREATE TABLE actions (
      scenario TEXT NOT NULL,
      name TEXT NOT NULL,
      PRIMARY KEY (scenario, name)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE applied (
      id INTEGER NOT NULL,
      scenario TEXT NOT NULL,
      model_id TEXT NOT NULL,
      applied_at_ms INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX applied_scenario ON applied (scenario, id)",
    """
    CREATE TABLE episode_records (
      episode_id TEXT NOT NULL,
      position INTEGER NOT NULL,
      record_id INTEGER NOT NULL,
      PRIMARY KEY (episode_id, position)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE episodes (
      id TEXT NOT NULL,
      learn_model TEXT NOT NULL,
      scenario TEXT,
      number INTEGER NOT NULL,
      source_group INTEGER NOT NULL,
      task_id TEXT,
      group_id TEXT,
      worker_id INTEGER,
      outcome_type TEXT NOT NULL,
      score FLOAT NOT NULL,
      outcome TEXT NOT NULL,
      num_records INTEGER NOT NULL,
      created_at_ms INTEGER NOT NULL,
      adapter_id TEXT,
      tags TEXT NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    """
    CREATE INDEX episodes_known ON episodes (scenario, learn_model, number)
      WHERE outcome_type <> 'unknown'
    """,
    "CREATE INDEX episodes_source ON episodes (source_group)",
    "CREATE INDEX episodes_task ON episodes (task_id)",
    """
    CREATE TABLE groups (
      id INTEGER NOT NULL,
      learn_model TEXT NOT NULL,
      group_key TEXT NOT NULL,
      num_records INTEGER NOT NULL,
      first_ms INTEGER NOT NULL,
      last_ms INTEGER NOT NULL,
      closing INTEGER NOT NULL,
      closed INTEGER NOT NULL,
      held_until_ms INTEGER DEFAULT '0' NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX groups_key ON groups (learn_model, group_key)",
    "CREATE INDEX groups_held ON groups (held_until_ms) WHERE held_until_ms > 0",
    "CREATE INDEX groups_open ON groups (closing, last_ms) WHERE closed = 0",
    """
    CREATE TABLE late_outcomes (
      record_id INTEGER NOT NULL,
      group_id INTEGER NOT NULL,
      PRIMARY KEY (record_id, group_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE learning_states (
      scenario TEXT NOT NULL,
      learn_model TEXT NOT NULL,
      first_started_at_ms INTEGER,
      episode_count INTEGER DEFAULT '0' NOT NULL,
      known_count INTEGER DEFAULT '0' NOT NULL,
      success_count INTEGER DEFAULT '0' NOT NULL,
      last_train_at_ms INTEGER,
      last_train_count INTEGER DEFAULT '0' NOT NULL,
      backoff_until_ms INTEGER,
      backoff_s FLOAT DEFAULT '0' NOT NULL,
      PRIMARY KEY (scenario, learn_model)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE memberships (
      group_id INTEGER NOT NULL,
      record_id INTEGER NOT NULL,
      PRIMARY KEY (group_id, record_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE models (
      id TEXT NOT NULL,
      scenario TEXT NOT NULL,
      created_at_ms INTEGER NOT NULL,
      body TEXT NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX models_scenario ON models (scenario, created_at_ms)",
    """
    CREATE TABLE outcomes (
      id INTEGER NOT NULL,
      episode_id TEXT NOT NULL,
      outcome TEXT NOT NULL,
      source TEXT,
      record_id INTEGER,
      at_ms INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX outcomes_episode ON outcomes (episode_id)",
    """
    CREATE TABLE receipts (
      receipt_id TEXT NOT NULL,
      group_id INTEGER NOT NULL,
      PRIMARY KEY (receipt_id, group_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE records (
      id INTEGER NOT NULL,
      event_id TEXT,
      digest BLOB NOT NULL,
      type TEXT NOT NULL,
      task_id TEXT,
      group_id TEXT,
      session_id TEXT,
      receipt_id TEXT,
      worker_id INTEGER,
      received_ms INTEGER NOT NULL,
      body BLOB NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE UNIQUE INDEX records_event_id ON records (event_id)",
    """
    CREATE TABLE runs (
      id TEXT NOT NULL,
      scenario TEXT NOT NULL,
      started_at_ms INTEGER NOT NULL,
      body TEXT NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX runs_scenario ON runs (scenario, started_at_ms)",
    """
    CREATE TABLE scenarios (
      scenario TEXT NOT NULL,
      model_number INTEGER NOT NULL,
      PRIMARY KEY (scenario)
    )
    """,
    """
    CREATE TABLE totals (
      id INTEGER NOT NULL,
      num_records INTEGER NOT NULL,
      num_duplicates INTEGER NOT NULL,
      num_conflicts INTEGER NOT NULL,
      num_late INTEGER NOT NULL,
      PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE waiting_outcomes (
      receipt_id TEXT NOT NULL,
      record_id INTEGER NOT NULL,
      PRIMARY KEY (receipt_id, record_id)
    ) WITHOUT ROWID
    """,
    "INSERT INTO totals VALUES (1, 0, 0, 0, 0)",
)
