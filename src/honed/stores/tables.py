"""The tables, as the newest migration leaves them; a test compares the two.

Hot tables (`records`, `groups`, `memberships`) carry as few indexes as the queries allow: each one
costs 10 to 25 % of the insert rate. Bodies and outcomes are JSON as the domain writes it; a column
repeats a field only where a query needs it.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    TypeDecorator,
    text,
    types,
)

metadata = MetaData()

Integer = types.Integer().with_variant(BigInteger(), "postgresql")
"""64 bits on both: an INTEGER of PostgreSQL holds no Unix milliseconds."""


class _WithoutNul(TypeDecorator[str]):
    """Names out of bodies for PostgreSQL, which holds no NUL: another sign stands for it; ids with NUL are refused."""

    impl = types.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is stored instead."""
        return value.replace("\0", "\ufffd") if value else value


Text = types.Text().with_variant(_WithoutNul(), "postgresql")
# No `postgresql_where` below: naming it loads 2 MB, and the migrations make the indexes.


records = Table(
    "records",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("event_id", Text),
    Column("digest", LargeBinary, nullable=False),
    Column("type", Text, nullable=False),
    Column("task_id", Text),
    Column("group_id", Text),
    Column("session_id", Text),
    Column("receipt_id", Text),
    Column("worker_id", Integer),
    Column("received_ms", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("records_event_id", "event_id", unique=True),
)
"""Events as they came; `id` rises in order of arrival."""

groups = Table(
    "groups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("learn_model", Text, nullable=False),
    Column("group_key", Text, nullable=False),
    Column("num_records", Integer, nullable=False),
    Column("first_ms", Integer, nullable=False),
    Column("last_ms", Integer, nullable=False),
    Column("closing", Integer, nullable=False),
    Column("closed", Integer, nullable=False),
    Column("held_until_ms", Integer, nullable=False, server_default="0"),
    Index("groups_key", "learn_model", "group_key", unique=True),
    Index("groups_open", "closing", "last_ms", sqlite_where=text("closed = 0")),
    Index("groups_held", "held_until_ms", sqlite_where=text("held_until_ms > 0")),
)
"""Records of one learn model that belong together; `last_ms` is the arrival of the newest."""

memberships = Table(
    "memberships",
    metadata,
    Column("group_id", Integer, nullable=False),
    Column("record_id", Integer, nullable=False),
    PrimaryKeyConstraint("group_id", "record_id"),
    sqlite_with_rowid=False,
)

receipts = Table(
    "receipts",
    metadata,
    Column("receipt_id", Text, nullable=False),
    Column("group_id", Integer, nullable=False),
    PrimaryKeyConstraint("receipt_id", "group_id"),
    sqlite_with_rowid=False,
)
"""The groups that a call with a receipt went into, for outcomes that name only the receipt."""

waiting_outcomes = Table(
    "waiting_outcomes",
    metadata,
    Column("receipt_id", Text, nullable=False),
    Column("record_id", Integer, nullable=False),
    PrimaryKeyConstraint("receipt_id", "record_id"),
    sqlite_with_rowid=False,
)
"""Outcomes whose call has not arrived yet."""

late_outcomes = Table(
    "late_outcomes",
    metadata,
    Column("record_id", Integer, nullable=False),
    Column("group_id", Integer, nullable=False),
    PrimaryKeyConstraint("record_id", "group_id"),
    sqlite_with_rowid=False,
)
"""Outcomes that found their group closed, until they are the episodes' outcome.

Group 0 stands for its `episode_id`, else for all attempts of its `group_id`. Of those, -n is the one that group n
has become, until the verdict has reached it too.
"""

episodes = Table(
    "episodes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("learn_model", Text, nullable=False),
    Column("scenario", Text),
    Column("number", Integer, nullable=False),
    Column("source_group", Integer, nullable=False),
    Column("task_id", Text),
    Column("group_id", Text),
    Column("worker_id", Integer),
    Column("outcome_type", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("num_records", Integer, nullable=False),
    Column("created_at_ms", Integer, nullable=False),
    Column("adapter_id", Text),
    Column("tags", Text, nullable=False),
    Column("num_tool_calls", Integer),
    Column("answer_chars", Integer),
    Column("unit", Text),
    Index("episodes_task", "task_id"),
    Index("episodes_group", "group_id", "id", sqlite_where=text("group_id IS NOT NULL")),
    Index("episodes_source", "source_group"),
    Index("episodes_in_order", "scenario", "learn_model", "id"),
    Index(
        "episodes_known",
        "scenario",
        "learn_model",
        "number",
        sqlite_where=text("outcome_type <> 'unknown'"),
    ),
)
"""`number` counts from 1 within scenario and learn model; `outcome` is the verdict that stands.
`num_tool_calls`, `answer_chars` and `unit` are `domain.traits`; null in episodes of former versions.
"""

episode_records = Table(
    "episode_records",
    metadata,
    Column("episode_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("record_id", Integer, nullable=False),
    PrimaryKeyConstraint("episode_id", "position"),
    sqlite_with_rowid=False,
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("episode_id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("source", Text),
    Column("record_id", Integer),
    Column("at_ms", Integer, nullable=False),
    Index("outcomes_episode", "episode_id"),
)
"""Every verdict on an episode, in order; one without a record is the learn model's own."""

remarks = Table(
    "remarks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("episode_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("note", Text),
    Column("label", Text),
    Column("said_by", Text, nullable=False),
    Column("at_ms", Integer, nullable=False),
    Index("remarks_episode", "episode_id", "id"),
)
"""What people remarked on episodes, in order (`domain.review`); removed with the episode alone."""

reviews = Table(
    "reviews",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("learn_model", Text, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("scenario", "learn_model"),
)
"""The run that waits for a person, if any, with the episodes that it is to read."""

asked = Table(
    "asked",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("learn_model", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("episode_id", Text, nullable=False),
    PrimaryKeyConstraint("scenario", "learn_model", "source"),
    sqlite_with_rowid=False,
)
"""Up to which episode each verifier and judge has been asked."""

changed_episodes = Table(
    "changed_episodes",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("learn_model", Text, nullable=False),
    Column("episode_id", Text, nullable=False),
    Column("outcome_type", Text, nullable=False),
    Column("score", Float, nullable=False),
    Column("demonstration", Integer),
    Column("counted", Integer, nullable=False),
    Column("number", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("scenario", "learn_model", "episode_id"),
    Index("changed_newest", "scenario", "learn_model", "number", sqlite_where=text("counted = 1")),
    sqlite_with_rowid=False,
)
"""Episodes that stand otherwise than the last training saw them; `changes.py` says exactly when.

`outcome_type` and `score` are what it saw, `demonstration` the record of a better answer since then; those of
episodes that no training has seen at all are not `counted`. `number` is the episode's.
"""

actions = Table(
    "actions",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("name", Text, nullable=False),
    PrimaryKeyConstraint("scenario", "name"),
    sqlite_with_rowid=False,
)
"""The distinct actions of each scenario's episodes."""

learning_states = Table(
    "learning_states",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("learn_model", Text, nullable=False),
    Column("first_started_at_ms", Integer),
    Column("episode_count", Integer, nullable=False, server_default="0"),
    Column("known_count", Integer, nullable=False, server_default="0"),
    Column("success_count", Integer, nullable=False, server_default="0"),
    Column("last_train_at_ms", Integer),
    Column("last_train_count", Integer, nullable=False, server_default="0"),
    Column("backoff_until_ms", Integer),
    Column("backoff_s", Float, nullable=False, server_default="0"),
    Column("changed_count", Integer, nullable=False, server_default="0"),
    Column("last_run_at_ms", Integer),
    Column("failures", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("scenario", "learn_model"),
    sqlite_with_rowid=False,
)
"""Counters, moved in the transaction of the episodes, so that judging never scans."""

scenarios = Table(
    "scenarios",
    metadata,
    Column("scenario", Text, primary_key=True, nullable=False),
    Column("model_number", Integer, nullable=False),
)
"""The number of each scenario's newest adapter, given out or not."""

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("started_at_ms", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("learn_model", Text),
    Column("state", Text),
    Column("ended_at_ms", Integer),
    Index("runs_scenario", "scenario", "started_at_ms"),
    Index(
        "runs_trained",
        "scenario",
        "learn_model",
        "started_at_ms",
        "ended_at_ms",
        sqlite_where=text("state <> 'skipped'"),
    ),
)
"""The columns repeat the body for the rules that ask about runs."""

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("created_at_ms", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Index("models_scenario", "scenario", "created_at_ms"),
)

applied = Table(
    "applied",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("scenario", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("applied_at_ms", Integer, nullable=False),
    Index("applied_scenario", "scenario", "id"),
)

canaries = Table(
    "canaries",
    metadata,
    Column("scenario", Text, nullable=False),
    Column("started_at_ms", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("scenario", "started_at_ms"),
    sqlite_with_rowid=False,
)
"""Versions that were tried beside the one in service, and the one that is."""

file_positions = Table(
    "file_positions",
    metadata,
    Column("path", Text, primary_key=True, nullable=False),
    Column("inode", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("head", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""How far each followed file has been read; written with the events that were read from it."""

totals = Table(
    "totals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("num_records", Integer, nullable=False),
    Column("num_duplicates", Integer, nullable=False),
    Column("num_conflicts", Integer, nullable=False),
    Column("num_late", Integer, nullable=False),
)
"""One row: what became of all events since the store was made."""

forgotten = Table(
    "forgotten",
    metadata,
    Column("digest", LargeBinary, nullable=False),
    PrimaryKeyConstraint("digest"),
    sqlite_with_rowid=False,
)
"""Keyed digests of forgotten events that had an id: sent again, they are repeats."""

sides = Table(
    "sides",
    metadata,
    Column("digest", LargeBinary, nullable=False),
    Column("held_out", Integer, nullable=False),
    PrimaryKeyConstraint("digest"),
    sqlite_with_rowid=False,
)
"""Keyed digests of the names of attempts that a training has learned from or held out; never changed."""

held_texts = Table(
    "held_texts",
    metadata,
    Column("id", Integer, primary_key=True, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("parts", LargeBinary, nullable=False),
    Index("held_texts_digest", "digest", unique=True),
)
"""What is remembered for ever of texts that were held out (`domain.held_text`); never changed, never taken out."""

held_bands = Table(
    "held_bands",
    metadata,
    Column("band", Integer, nullable=False),
    Column("text_id", Integer, nullable=False),
    PrimaryKeyConstraint("band", "text_id"),
    sqlite_with_rowid=False,
)
"""Where those are found that may say nearly the same."""

removed = Table(
    "removed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("newest_record_id", Integer, nullable=False),
)
"""One row: the highest id of a record that was taken out; ids are not given twice."""
