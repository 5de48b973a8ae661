"""Fixtures and settings that several areas share."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.incidents", "tests.postgres", "tests.tiny_models"]

# a busy machine is no fault of the code
settings.register_profile("honed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("honed")


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, as the processes do."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _log_as_ever() -> Iterator[None]:
    """A command that is run in this process sets up its log; the next test must not write to it."""
    yield
    structlog.reset_defaults()
