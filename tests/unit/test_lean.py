"""What a daemon carries for months: only what it uses."""

import subprocess
import sys

UNUSED = (
    "rich",
    "pygments",
    "typer",
    "numpy",
    "torch",
    "asyncpg",
    "sqlalchemy.orm",
    "sqlalchemy.dialects.postgresql",
)


def _run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_daemon_imports_nothing_that_it_does_not_use() -> None:
    """Each of these would cost it megabytes."""
    script = f"""
import honed.daemon, sys
print([name for name in {UNUSED} if sys.modules.get(name) is not None])
import pygments, rich
"""
    assert _run(script).strip() == "[]"


def test_what_was_left_out_is_there_for_others() -> None:
    """Another library of the process may use SQLAlchemy's sessions, after us as before."""
    script = """
import asyncio
import honed.stores
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

async def main():
    engine = create_async_engine("sqlite+aiosqlite://")
    async with async_sessionmaker(engine)() as session:
        assert isinstance(session, AsyncSession)
        print((await session.execute(text("SELECT 7"))).scalar())
    await engine.dispose()

asyncio.run(main())
"""
    assert _run(script).strip() == "7"
    assert _run("import sqlalchemy.ext.asyncio\n" + script).strip() == "7"
