"""Fixtures and settings that several areas share."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from honed.domain.ids import EpisodeIds
from honed.learn_models import attempt

pytest_plugins = ["tests.incidents", "tests.postgres", "tests.tiny_models"]

# a busy machine is no fault of the code, and what passed once passes again; `make test-long` explores
_quiet = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("honed", _quiet, derandomize=True)
settings.register_profile("explore", _quiet)
settings.load_profile("honed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have counted, which they give to `record_property`."""
    told = [
        f"{report.nodeid}\n    {name}: {value}"
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
    ]
    if told:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(told))


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, as the processes do."""
    return "asyncio"


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pytest's own, by a shorter name: a socket's path may have 107 bytes, and a folder of data lies deep."""
    name = re.sub(r"\W", "_", str(request.node.name).removeprefix("test_"))
    return tmp_path_factory.mktemp(name[:12])


@pytest.fixture(autouse=True)
def _ids_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids rise in a process: a test whose clock was ahead must not move the episodes of the next one."""
    monkeypatch.setattr(attempt, "_EPISODE_IDS", EpisodeIds())


@pytest.fixture(autouse=True)
def _log_as_ever() -> Iterator[None]:
    """A command that is run in this process sets up its log; the next test must not write to it."""
    yield
    structlog.reset_defaults()
