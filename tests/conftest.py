"""Fixtures and settings that several areas share."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.incidents", "tests.tiny_models"]

# a busy machine is no fault of the code
settings.register_profile("honed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("honed")


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, as the processes do."""
    return "asyncio"
