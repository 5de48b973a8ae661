"""The gateway's tests run on asyncio: its upstream side is an asyncio protocol."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
