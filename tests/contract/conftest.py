"""The databases that the contract holds on: a SQLite file, SQLite in memory, a PostgreSQL server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from honed.stores import SqlStore, open_store


@pytest.fixture(params=["file", "memory", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "file":
            return f"sqlite:///{tmp_path / 'honed.db'}"
        case "memory":
            return "sqlite://"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["file", "postgresql"])
def lasting_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the databases that outlive the process."""
    if request.param == "file":
        return f"sqlite:///{tmp_path / 'honed.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    async with open_store(url, queue_size=2_000, queue_bytes=1 << 20, batch_max=200) as opened:
        yield opened
