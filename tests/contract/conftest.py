"""The databases that the contract holds on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from honed.stores import SqlStore, open_store


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'honed.db'}" if request.param == "file" else "sqlite://"
    async with open_store(url, queue_size=2_000, queue_bytes=1 << 20, batch_max=200) as opened:
        yield opened
