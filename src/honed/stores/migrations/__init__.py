"""Numbered steps forward from one schema to the next; there is no way back.

A step is a list of statements in SQLite's words (`postgres.schema` translates them), frozen once
released: a later change of `tables.py` comes with a step of its own. Each step runs in one transaction
together with the new version number, so a kill leaves the schema before or after it.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from honed.errors import SchemaError
from honed.stores.dialects import is_postgres
from honed.stores.migrations import step_0001_records_episodes_runs_models as step_0001
from honed.stores.migrations import step_0002_file_positions as step_0002
from honed.stores.migrations import step_0003_forgotten as step_0003
from honed.stores.migrations import step_0004_episode_groups as step_0004
from honed.stores.migrations import step_0005_changed_episodes as step_0005
from honed.stores.migrations import step_0006_facts_for_triggers as step_0006
from honed.stores.migrations import step_0007_sides as step_0007
from honed.stores.migrations import step_0008_verifiers_and_alarms as step_0008
from honed.stores.migrations import step_0009_reviews as step_0009
from honed.stores.migrations import step_0010_episodes_in_order as step_0010
from honed.stores.migrations import step_0011_held_texts as step_0011
from honed.stores.migrations import step_0012_groups_in_order as step_0012
from honed.stores.migrations import step_0013_canaries as step_0013
from honed.stores.migrations import step_0014_units as step_0014
from honed.stores.postgres.schema import translated

STEPS: Final = (
    step_0001.STATEMENTS,
    step_0002.STATEMENTS,
    step_0003.STATEMENTS,
    step_0004.STATEMENTS,
    step_0005.STATEMENTS,
    step_0006.STATEMENTS,
    step_0007.STATEMENTS,
    step_0008.STATEMENTS,
    step_0009.STATEMENTS,
    step_0010.STATEMENTS,
    step_0011.STATEMENTS,
    step_0012.STATEMENTS,
    step_0013.STATEMENTS,
    step_0014.STATEMENTS,
)
"""Step n (from 1) leads from version n - 1 to version n."""

NEWEST: Final = len(STEPS)


async def migrate(connection: AsyncConnection) -> None:
    """Bring the schema to the newest version, inside the caller's write transaction.

    Raises:
        SchemaError: the database was written by a newer version of honed.
    """
    await connection.execute(
        text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    )
    found = (await connection.execute(text("SELECT version FROM schema_version"))).scalar()
    if found is not None and found > NEWEST:
        raise SchemaError(
            f"the database has schema version {found}; this honed knows versions up to {NEWEST}",
            advice="upgrade honed, or use another data_dir",
        )
    for statements in STEPS[found or 0 :]:
        for statement in statements:
            told = translated(statement) if is_postgres(connection) else statement
            await connection.exec_driver_sql(told)
    if found is None:
        insert = text("INSERT INTO schema_version (version) VALUES (:newest)")
        await connection.execute(insert, {"newest": NEWEST})
    elif found < NEWEST:
        update = text("UPDATE schema_version SET version = :newest")
        await connection.execute(update, {"newest": NEWEST})
